"""A model behind auto-batching: requests that wait at the same time are computed together."""

import numpy as np
from paddle_serving_server.web_service import Op, WebService


class MlpOp(Op):
    def preprocess(self, input_dicts, data_id, log_id):
        ((_, input_dict),) = input_dicts.items()
        return {"x": np.array([input_dict["x"].split(",")], np.float32)}, False, None, ""

    def postprocess(self, input_dicts, fetch_dict, data_id, log_id):
        return {"class": str(int(fetch_dict["y"].argmax())), "score": "%.4f" % fetch_dict["y"].max()}, None, ""


class MlpService(WebService):
    def get_pipeline_response(self, read_op):
        return MlpOp(name="mlp", input_ops=[read_op])


mlp_service = MlpService(name="mlp")
mlp_service.prepare_pipeline_config("config.yml")
mlp_service.run_service()
