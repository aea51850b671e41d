"""An op of Paddle Serving for tests: it tells what it got."""

import numpy as np
from paddle_serving_server.pipeline import Op


class TellOp(Op):
    def preprocess(self, input_dicts, data_id, log_id):
        told = {"ops": str(sorted(input_dicts)), "log_id": str(log_id)}
        for values in input_dicts.values():
            for name, value in values.items():
                is_array = isinstance(value, np.ndarray)
                told[name] = f"{value.dtype} {value.shape} {value.tolist()}" if is_array else repr(value)
        return told, False, None, ""

    def postprocess(self, input_dicts, fetch_dict, data_id, log_id):
        return fetch_dict, None, ""
