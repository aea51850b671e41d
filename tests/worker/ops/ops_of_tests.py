"""Ops, and models of Python, that the tests name as ``ops_of_tests.py:Class``. Python 3.7 runs them, too."""

import numpy as np

from ascend_parallel import ProductError, Skip
from ascend_parallel.worker.engines import EngineBroken


class Model:
    """x (batch, 3) -> y (batch, 3), twice x; notes how many rows each run had. A 13 in a row is bad luck."""

    def __init__(self, device, batch="batch", outputs="batch"):
        self.inputs = [("x", "float32", (batch, 3))]
        self.outputs = None if outputs is None else [("y", "float32", (outputs, 3))]
        self.runs = []

    def predict(self, arrays):
        x = arrays["x"]
        self.runs.append(len(x))
        if (x == 13).any():
            raise ArithmeticError("13 in a row")
        return {"y": 2 * x}


class Found(Model):
    """x (batch, 3) -> found (hits, 2), where x is above 0: an output that has other rows than the input."""

    def __init__(self, device, **options):
        super().__init__(device, **options)
        self.outputs = [("found", "int64", ("hits", 2))]

    def predict(self, arrays):
        self.runs.append(len(arrays["x"]))
        return {"found": np.argwhere(arrays["x"] > 0)}


class Mean(Model):
    """x (batch, 3) -> mean (): an output without rows."""

    def __init__(self, device, **options):
        super().__init__(device, **options)
        self.outputs = [("mean", "float32", ())] if options.get("outputs", "") is not None else None

    def predict(self, arrays):
        self.runs.append(len(arrays["x"]))
        return {"mean": np.mean(arrays["x"])}


class Reusing(Model):
    """Writes its output to the same memory in each run."""

    def __init__(self, device, **options):
        super().__init__(device, **options)
        self.memory = np.zeros((10, 3), np.float32)

    def predict(self, arrays):
        rows = len(arrays["x"])
        self.memory[:rows] = 2 * arrays["x"]
        return {"y": self.memory[:rows]}


class Words(Model):
    """ids (batch, length) int64, mask likewise -> sums (batch,): any length, where all have the same."""

    def __init__(self, device):
        super().__init__(device)
        self.inputs = [("ids", "int64", ("batch", "length")), ("mask", "int64", ("batch", "length"))]
        self.outputs = [("sums", "int64", ("batch",)), ("lengths", "int64", ("batch",))]

    def predict(self, arrays):
        ids, mask = arrays["ids"], arrays["mask"]
        self.runs.append(ids.shape)
        return {"sums": (ids * mask).sum(1), "lengths": np.full(len(ids), ids.shape[1])}


class Any:
    """A model that tells nothing of its inputs and outputs."""

    def __init__(self, device):
        self.runs = []

    def predict(self, arrays):
        self.runs.append(sorted(arrays))
        return {name: array + 1 for name, array in arrays.items()}


class Scaled(Model):
    """x (batch, 3), factor (1,) -> y: the factor is the same for all rows."""

    def __init__(self, device):
        super().__init__(device)
        self.inputs = [("x", "float32", ("batch", 3)), ("factor", "float32", (1,))]

    def predict(self, arrays):
        self.runs.append(len(arrays["x"]))
        return {"y": arrays["x"] * arrays["factor"]}


# ---- Python around a model


class Around:
    """Keeps the sum in ``self``, adds ``plus`` before the model and names the result."""

    def __init__(self, device, plus=0):
        self.device, self.plus = device, plus

    def preprocess(self, inputs):
        self.total = float(inputs["x"].sum())
        inputs["note"] = "kept"
        return {"x": inputs["x"] + self.plus}

    def postprocess(self, outputs, inputs):
        return {"y": outputs["y"], "total": self.total, "note": inputs["note"], "device": self.device}


class After:
    """Postprocess alone."""

    def __init__(self, device):
        pass

    def postprocess(self, outputs, inputs):
        return {"z": outputs["y"] + 1}


class Batches:
    """A mini-batch for each item of a list; None is skipped. An empty list is skipped as a whole."""

    def __init__(self, device):
        pass

    def preprocess(self, inputs):
        if not inputs["items"]:
            return Skip("nothing")
        return [Skip({"skipped": i}) if item is None else {"x": item} for i, item in enumerate(inputs["items"])]

    def postprocess(self, outputs, inputs):
        return {"seen": outputs}


class BatchesOnly:
    """Mini-batches without a postprocess: their outputs are put together."""

    def __init__(self, device):
        pass

    def preprocess(self, inputs):
        return [
            Skip({"y": np.zeros((1, 3), np.float32)} if item is None else item)
            if item is None or isinstance(item, dict)
            else {"x": item}
            for item in inputs["items"]
        ]


SAYS = {
    "none": lambda: None,
    "array": lambda: np.zeros((2, 3)),
    "tuple": lambda: ({"x": np.zeros((1, 3))},),
    "list of arrays": lambda: [{"x": np.zeros((1, 3))}, np.zeros(3)],
    "unknown": lambda: {"x": np.zeros((1, 3)), "xx": np.zeros((1, 3))},
    "missing": lambda: {},
    "ragged": lambda: {"x": [[1, 2, 3], [4]]},
    "objects": lambda: {"x": np.array([[None]])},
    "text": lambda: {"x": np.array([["a"]])},
    "complex": lambda: {"x": np.zeros((1, 3), complex)},
    "shape": lambda: {"x": np.zeros((1, 4))},
    "axes": lambda: {"x": np.zeros(3)},
    "second": lambda: [{"x": np.zeros((1, 3))}, {"x": np.zeros((1, 4))}],
    "bad luck": lambda: [{"x": np.zeros((1, 3))}, {"x": np.full((1, 3), 13)}],
    "raise": lambda: {}["key"],
    "broken": lambda: throw(EngineBroken("gone")),
    "refuse": lambda: throw(ProductError("no cats", 51)),
}


class Returns:
    """Returns what the request's ``say`` names; other requests pass."""

    def __init__(self, device):
        pass

    def preprocess(self, inputs):
        return SAYS[inputs["say"]]() if "say" in inputs else {"x": inputs["x"]}

    def postprocess(self, outputs, inputs):
        said = {
            "none": None,
            "list": [1],
            "set": {"boxes": [1, {2}]},
            "circle": circle(),
        }
        if inputs.get("post") == "broken":
            raise EngineBroken("gone")
        if inputs.get("post") == "raise":
            raise KeyError("post")
        if inputs.get("post") == "refuse":
            raise ProductError("too late")
        return said[inputs["post"]] if "post" in inputs else outputs


def throw(error):
    raise error


def circle():
    found = {}
    found["self"] = found
    return found


# ---- Python alone


class Alone:
    """Doubles x, or does what it is told."""

    def __init__(self, device, factor=2):
        self.factor = factor

    def predict(self, inputs):
        if inputs.get("say") == "refuse":
            raise ProductError("not today", 77)
        if inputs.get("say") == "raise":
            raise ValueError("odd")
        return None if inputs.get("say") == "none" else {"y": inputs["x"] * self.factor}


class Echo:
    """Returns what it gets."""

    def __init__(self, device):
        pass

    def predict(self, inputs):
        return inputs


def make_callable(device):
    return lambda inputs: {"keys": sorted(inputs)}


class Nothing:
    def __init__(self, device):
        pass


class NoDevice:
    pass


class Unhappy:
    def __init__(self, device, size):
        raise OSError("no dictionary file")
