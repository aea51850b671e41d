"""A small stand-in for ais_bench's ``InferSession``, with the models of ``om_models.py``."""

import json
import threading

import numpy as np

NUMBERS = {"float32": 0, "float16": 1, "int8": 2, "int32": 3, "uint8": 4, "int64": 9}
#: Sessions that are alive, and what was done wrongly.
alive = []
violations = []
finalized = []


class _Tensor:
    def __init__(self, name, shape, dtype):
        self.name, self.shape, self.datatype = name, shape, NUMBERS[dtype]


class InferSession:
    def __init__(self, device_id, model_path, acl_json_path=None, debug=False, loop=1):
        with open(model_path, "rb") as file:
            self._model = json.loads(file.read()[4:].decode())
        self._weights = {name: np.asarray(value, np.float32) for name, value in self._model.get("weights", {}).items()}
        self._current = None
        alive.append(self)

    @staticmethod
    def finalize():
        finalized.append(True)

    def get_inputs(self):
        return [_Tensor(tensor["name"], tensor["dims"], tensor["dtype"]) for tensor in self._model["inputs"]]

    def get_outputs(self):
        rows = max(self._model.get("gears", {}).get("batch", [2]))
        zeros = [np.zeros([rows if dim == -1 else dim for dim in t["dims"]], t["dtype"]) for t in self._model["inputs"]]
        return [
            _Tensor(tensor["name"], list(result.shape), tensor["dtype"])
            for tensor, result in zip(self._model["outputs"], self._compute(zeros))
        ]

    def set_context(self):
        self._current = threading.get_ident()

    def infer(self, feeds, mode="static", custom_sizes=100000, out_array=True):
        if self not in alive or self._current != threading.get_ident():
            violations.append("infer after free_resource, or without set_context in this thread")
        gears = self._model.get("gears", {})
        assert (mode == "dymbatch") == ("batch" in gears) and (mode == "static") == (not gears)
        if mode == "dymbatch" and feeds[0].shape[0] not in gears["batch"]:
            raise RuntimeError("Set dynamic batch size failed, ret 145013")
        return self._compute(feeds)

    def free_resource(self):
        alive.remove(self)

    def _compute(self, arrays):
        names = dict(zip([tensor["name"] for tensor in self._model["inputs"]], arrays), np=np, **self._weights)
        return [np.asarray(eval(tensor["expr"], names)).astype(tensor["dtype"]) for tensor in self._model["outputs"]]
