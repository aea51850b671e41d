"""Models for the callable engine; workers load them by path: ``factories.py:name``."""

import os
import threading

import numpy as np


def weights(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


class Fixed:
    """A model that accepts batches of two rows only."""

    def __init__(self, function, specs):
        self.function = function
        self.inputs = [(name, dtype, shape) for name, dtype, *shape in specs]

    def predict(self, inputs):
        if isinstance(inputs, list):
            inputs = {name: array for (name, _, _), array in zip(self.inputs, inputs)}  # noqa: B905  (Python 3.7 runs this, too)
        assert all(inputs[name].shape == tuple(shape) for name, _, shape in self.inputs)
        return self.function(inputs)


def linear(device):
    w = weights(8, 5)
    return lambda inputs: {"y": np.maximum(inputs["x"] @ w, 0)}


def linear_fixed(device):
    return Fixed(linear(device), [("x", "float32", 2, 8)])


def two_fixed(device):
    return Fixed(two(device), [("a", "float32", 2, 4), ("b", "float32", 2, 4)])


def unet_fixed(device):
    specs = [("sample", "float32", 2, 2, 4, 4), ("timestep", "float32", 1), ("ctx", "float32", 2, 3, 4)]
    return Fixed(unet(device), specs)


def layer_norm(device):
    def predict(inputs):
        d = inputs["x"] - inputs["x"].mean(axis=-1, keepdims=True)
        v = (d * d).mean(axis=-1, keepdims=True) + np.float32(1e-5)
        return {"y": d / np.sqrt(v) * weights(8) + weights(1, 8)[0]}

    return predict


def layer_norm_fixed(device):
    return Fixed(layer_norm(device), [("x", "float32", 2, 5, 8)])


def embed(device):
    table = weights(10, 4)
    return lambda inputs: {"y": table[inputs["ids"]]}


def embed_fixed(device):
    return Fixed(embed(device), [("ids", "int64", 2, 3)])


def __getattr__(name):
    """Return ``same_float16`` and ``same_float16_fixed``, and so on for all dtypes."""
    if not name.startswith("same_"):
        raise AttributeError(name)
    dtype = name[len("same_") :].replace("_fixed", "")
    if name.endswith("_fixed"):
        return lambda device: Fixed(turn(device), [("x", dtype, 2, 3)])
    return turn


def unet(device):
    def predict(inputs):
        mean = inputs["ctx"].mean(axis=1).reshape(-1, 1, 1, 4)
        return {"out": inputs["sample"] * inputs["timestep"] + mean}

    return predict


def double(device):
    return lambda inputs: {"y": inputs["x"] * 2}


def turn(device):
    """Reverse the rows, for any dtype."""
    return lambda inputs: {"y": inputs["x"][:, ::-1]}


def two(device):
    return lambda inputs: {"total": inputs["a"] + inputs["b"], "product": inputs["a"] * inputs["b"]}


def scale(device):
    """x times a step that is 0-d or has one element, the same for all rows."""
    return lambda inputs: {"y": inputs["x"] * inputs["step"]}


def as_list(device):
    return lambda inputs: [inputs[0] + 1, inputs[0] - 1]


def lone(device):
    return lambda inputs: inputs["x"] + 1


def who(device):
    """The process and device that computed each row."""
    number = int(device.rpartition(":")[2])

    def predict(inputs):
        rows = len(inputs["x"])
        return {"pid": np.full(rows, os.getpid()), "device": np.full(rows, number)}

    return predict


def flags(device):
    """The flags of the input that a model gets."""

    def predict(inputs):
        x = inputs["x"]
        seen = [x.flags.c_contiguous, x.flags.aligned, x.dtype.isnative, not x.flags.writeable]
        return {"seen": np.array([seen] * len(x)), "x": x}

    return predict


def scalar(device):
    return lambda inputs: {"loss": np.float32(inputs["x"].mean()), "y": inputs["x"]}


def positive(device):
    """The positive rows only: an output whose number of rows depends on the data."""
    return lambda inputs: {"y": inputs["x"][inputs["x"][:, 0] > 0]}


def wide(device):
    """An output whose number of columns is the first number of the input."""
    return lambda inputs: {"y": np.repeat(inputs["x"][:, :1], int(inputs["x"][0, 0]), axis=1)}


def sometimes(device):
    """No output if the first number is negative."""
    return lambda inputs: {} if inputs["x"].flat[0] < 0 else {"y": inputs["x"] + 1}


def other_name(device):
    return lambda inputs: {("y" if inputs["x"].flat[0] > 0 else "z"): inputs["x"]}


def other_dtype(device):
    return lambda inputs: {"y": inputs["x"].astype("float64" if inputs["x"].flat[0] < 0 else "float32")}


def constant_table(device):
    """An output that is equal for all chunks."""
    return lambda inputs: {"y": inputs["x"], "table": np.arange(5)}


def transposed(device):
    """Rows along axis 1 of the output, in Fortran order."""
    return lambda inputs: {"y": inputs["x"].T}


def objects(device):
    return lambda inputs: {"y": np.array([{}], object)}


def records(device):
    return lambda inputs: {"y": np.zeros(len(inputs["x"]), [("a", np.int32), ("b", np.float32)])}


def words(device):
    return lambda inputs: {"y": np.array(["a"] * len(inputs["x"]))}


def writes(device):
    def predict(inputs):
        inputs["x"][:] = 0
        return inputs

    return predict


def fails(device, text="no"):
    def predict(inputs):
        raise ValueError(text)

    return predict


def not_callable(device):
    return 3


class WithSpecs:
    """A model that declares its inputs and outputs; ``rows`` sets a fixed batch size."""

    def __init__(self, device, factor=2.0, rows="batch"):
        self.inputs = [("x", "float32", (rows, 3))]
        self.outputs = [("y", "float32", (rows, 3))]
        self.factor = np.float32(factor)

    def predict(self, inputs):
        x = inputs["x"] if isinstance(inputs, dict) else inputs[0]
        return {"y": x * self.factor}


def counts_threads(device):
    """The number of concurrent calls in this process; each call waits until there are two, or until a timeout."""
    barrier = threading.Barrier(2)

    def predict(inputs):
        try:
            barrier.wait(0.2)
        except threading.BrokenBarrierError:
            barrier.reset()
            return {"y": inputs["x"] * 0 + 1}
        return {"y": inputs["x"] * 0 + 2}

    return predict
