"""A file as users of Paddle Serving 0.9.0 have it: a graph of ops, and a service that is started when it is run."""

import logging

import numpy as np
from paddle_serving_server.pipeline.error_catch import CustomException, CustomExceptionCode
from paddle_serving_server.web_service import Op, WebService

_LOGGER = logging.getLogger()


class DetOp(Op):
    def init_op(self):
        self.separator = ","
        self.seen = 0

    def preprocess(self, input_dicts, data_id, log_id):
        ((_, input_dict),) = input_dicts.items()
        if input_dict.get("say") == "three":
            return {}, False, None
        if input_dict.get("say") == "refuse":
            return None, False, 51, "no numbers"
        if input_dict.get("say") == "raise":
            raise ValueError("odd")
        if input_dict.get("say") == "custom":
            raise CustomException(CustomExceptionCode.INPUT_PARAMS_ERROR, "not like this", True)
        if input_dict.get("say") == "text":
            return "text", False, None, ""
        numbers = [float(word) for word in input_dict["x"].split(self.separator)]
        self.seen += 1
        self.width = len(numbers)
        if not any(numbers):
            return {"empty": True}, True, None, ""
        return {"x": np.array(numbers).reshape(-1, 3)}, False, None, ""

    def postprocess(self, input_dicts, fetch_dict, data_id, log_id):
        if "empty" in fetch_dict:
            return {"rows": [], "width": self.width}, None, ""
        if fetch_dict["y"][0, 0] == 200:
            return {}, 99, "too large"
        return {"rows": [row for row in fetch_dict["y"]], "width": self.width, "ids": [data_id, log_id]}, None, ""


class RecOp(Op):
    def preprocess(self, input_dicts, data_id, log_id):
        ((_, input_dict),) = input_dicts.items()
        return [{"x": row[np.newaxis]} for row in input_dict["rows"]], False, None, ""

    def postprocess(self, input_dicts, fetch_data, data_id, log_id):
        return {"sums": str([int(each["y"].sum()) for each in fetch_data])}, None, ""


class OwnProcessOp(Op):
    """Runs the model twice."""

    def preprocess(self, input_dicts, data_id, log_id):
        ((_, input_dict),) = input_dicts.items()
        if isinstance(input_dict["x"], list):
            return [{"x": value} for value in input_dict["x"]], False, None, ""
        return {"x": input_dict["x"]}, False, None, ""

    def process(self, feed_batch, typical_logid):
        if feed_batch[0]["x"][0, 0] == 7:
            return None, 9000, "seven"
        outputs, _, _ = super().process(feed_batch, typical_logid)
        return super().process([{"x": outputs["y"]}], typical_logid)

    def postprocess(self, input_dicts, fetch_data, data_id, log_id):
        return {"fetched": fetch_data}, None, ""


class JoinOp(Op):
    def __init__(self, name, input_ops, weight):
        super().__init__(name=name, input_ops=input_ops, concurrency=2)
        self.weight = weight

    def preprocess(self, input_dicts, data_id, log_id):
        total = sum(int(each["n"]) for each in input_dicts.values())
        return {"n": total * self.weight}, False, None, ""

    def postprocess(self, input_dicts, fetch_data, data_id, log_id):
        return {"n": str(fetch_data["n"]), "of": ",".join(sorted(input_dicts))}, None, ""


class OcrService(WebService):
    def get_pipeline_response(self, read_op):
        det = DetOp(name="det", input_ops=[read_op], batch_size=4)
        rec = RecOp(name="rec", input_ops=[det])
        plain = Op(name="plain", input_ops=[det])
        return JoinOp("join", [rec, plain], weight=3)


ocr_service = OcrService(name="ocr")
ocr_service.prepare_pipeline_config("config.yml")
ocr_service.run_service()
