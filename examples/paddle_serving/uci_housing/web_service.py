"""Prices of houses, as a service of Paddle Serving: one op around a model."""

import numpy as np
from paddle_serving_server.pipeline import Op
from paddle_serving_server.web_service import WebService

FEATURES = 13


class UciOp(Op):
    """Takes the features of one house or several as text: ``0.1,0.2,...;0.3,...``."""

    def init_op(self):
        self.separator = ";"

    def preprocess(self, input_dicts, data_id, log_id):
        ((_, input_dict),) = input_dicts.items()
        rows = [row.split(",") for row in input_dict["x"].split(self.separator)]
        if any(len(row) != FEATURES for row in rows):
            return None, False, 51, "a house has %d features" % FEATURES
        return {"x": np.array(rows, np.float32)}, False, None, ""

    def postprocess(self, input_dicts, fetch_dict, data_id, log_id):
        return {"price": str(fetch_dict["price"][:, 0].tolist())}, None, ""


class UciService(WebService):
    def get_pipeline_response(self, read_op):
        return UciOp(name="uci", input_ops=[read_op])


uci_service = UciService(name="uci")
uci_service.prepare_pipeline_config("config.yml")
uci_service.run_service()
