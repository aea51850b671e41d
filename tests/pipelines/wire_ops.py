"""Ops for tests of pipelines behind a server, in a file of their own, and servers that have them."""

import contextlib
import json
import time
from pathlib import Path

from serving.servers import serving

_SOURCE = '''
import os, signal, time
import numpy as np
from ascend_parallel import ProductError


def twice(device=None):
    """A model: doubles x."""
    return lambda inputs: {"y": inputs["x"] * 2}


class Echo:
    """Returns its inputs."""

    def __init__(self, device):
        pass

    def predict(self, inputs):
        return {name + "_out": value for name, value in inputs.items()}


class Words:
    def __init__(self, device):
        pass

    def predict(self, inputs):
        texts = inputs["text"]
        assert texts.dtype == object and all(type(text) is bytes for text in texts.ravel())
        words = [text.decode().upper() for text in texts.ravel()]
        return {"upper": words, "lengths": [len(text) for text in texts.ravel()], "count": texts.size, "raw": texts}


class Kinds:
    """Returns one value of each kind that is a tensor, and what x asks for beside them."""

    WRONG = {
        1: None,
        2: {"a": 1},
        3: [[1], [2, 3]],
        4: [1, None],
        5: ["a", 1],
        6: 2**70,
        7: np.zeros(2, complex),
        8: "\\ud800",
    }

    def __init__(self, device):
        pass

    def predict(self, inputs):
        wrong = self.WRONG.get(int(inputs["x"].ravel()[0]))
        if int(inputs["x"].ravel()[0]) in self.WRONG:
            return {"fine": 1, "wrong": wrong}
        return {
            "flag": True,
            "number": 7,
            "share": 0.25,
            "narrow": np.float32(1.5),
            "text": "grün",
            "bytes": b"\\x00\\xff",
            "numbers": [1, 2, 3],
            "rows": [[1.5, 2.5], [3.5, 4.5]],
            "texts": [["a", b"b"], ["c", "d"]],
            "arrays": [np.zeros(2, np.int8), np.ones(2, np.int8)],
            "words": np.array(["x", "yz"]),
            "none": [],
            "no_texts": np.empty(0, object),
            "array": np.arange(6, dtype=np.uint8).reshape(2, 3),
        }


class Moody:
    """Triples x, and counts what it gets; of some values, it fails in one way or another."""

    def __init__(self, device, folder=""):
        self._folder = folder

    def predict(self, inputs):
        x = inputs["x"]
        value = float(x.ravel()[0])
        if value == -1:
            raise ValueError("a row of -1")
        if value == -2:
            os.kill(os.getpid(), signal.SIGKILL)
        if value == -3:
            time.sleep(3600)
        if value == -4:
            return None
        if value == -5:
            raise ProductError("the picture is too dark", 77)
        if value == -6:
            return {"y": {"a": 1}}
        if value == -7:
            return {"y": object()}
        if value == -8:  # fails twice, then not any more
            path = os.path.join(self._folder, "tries")
            with open(path, "a") as file:
                file.write("x")
            if os.path.getsize(path) <= 2:
                raise ValueError("not yet")
        if value == -9:
            time.sleep(0.5)
        return {"y": x * 3}


class MoodyAround(Moody):
    """The same around the model: its requests are computed together."""

    predict = None

    def preprocess(self, inputs):
        self.answer = Moody.predict(self, inputs)
        return {"x": inputs["x"]}

    def postprocess(self, outputs, inputs):
        return self.answer


class Rows:
    """Python around a model: gives it inputs that do not fit, for some values."""

    def __init__(self, device):
        pass

    def preprocess(self, inputs):
        x = inputs["x"]
        value = float(x.ravel()[0])
        if value == -1:
            return {"x": [[1], [2, 3]]}
        if value == -2:
            return [{"x": x}, {"x": x, "z": np.concatenate([x, x])}]
        if value == -3:
            return [{"x": x}, None]
        return [{"x": x}, {"x": x + 1}]

    def postprocess(self, outputs, inputs):
        return {"y": np.stack([each["y"] for each in outputs])}


class Gate:
    """Waits for a byte from a pipe for each request whose x is 7; makes of x something that is larger."""

    def __init__(self, device, fifo, size=1):
        self._gate = os.open(fifo, os.O_RDWR)
        self._size = size

    def predict(self, inputs):
        if (inputs["x"] == 7).any():
            os.read(self._gate, 1)
        return {"x": inputs["x"], "pid": os.getpid()}


class Large:
    """Gives 4 MiB for each request."""

    def __init__(self, device):
        pass

    def predict(self, inputs):
        return {"x": np.full(1 << 20, inputs["x"].ravel()[0], np.float32)}


class Slow:
    """Takes its time, and gives the mean of x."""

    def __init__(self, device, seconds=0.02):
        self._seconds = seconds

    def predict(self, inputs):
        time.sleep(self._seconds)
        return {"mean": float(inputs["x"].mean())}


class Sums:
    """Joins what several ops gave."""

    def __init__(self, device):
        pass

    def predict(self, inputs):
        return {"sum": inputs["x"] + inputs["y"] + inputs["z"], "rows": len(inputs["x"])}
'''


def write_ops(folder: Path) -> Path:
    """Write the ops' file; return its path."""
    path = folder / "wire_test_ops.py"
    path.write_text(_SOURCE)
    return path


def python(name, kind, inputs="request", **settings):
    """Return the settings of an op with a class of the file."""
    return {"name": name, "python": f"wire_test_ops.py:{kind}", "inputs": inputs, **settings}


def model(name, inputs="request", **settings):
    """Return the settings of an op that is the model ``twice``."""
    return {"name": name, "path": "wire_test_ops.py:twice", "devices": "cpu:0", "inputs": inputs, **settings}


def write_config(folder, *pipelines, models=(), **settings):
    """Write the ops, and a configuration with these pipelines; return its path."""
    write_ops(folder)
    path = folder / "config.yml"
    config = {"port": 0, "pipelines": list(pipelines), **settings}
    if models:
        config["models"] = list(models)
    path.write_text(json.dumps(config))
    return path


@contextlib.contextmanager
def serving_pipelines(folder, *pipelines, env=None, **settings):
    """Serve these pipelines."""
    with serving(write_config(folder, *pipelines, **settings), env=env) as server:
        yield server


def metric(server, name, **labels):
    """Return the value of a metric with these labels."""
    text = server.request("GET", "/metrics")[2].decode()
    for line in text.splitlines():
        if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"there is no {name} {labels} in\n{text}")


def wait_until(is_true, what):
    """Wait for something outside of this process that sends no event."""
    end_s = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end_s, what
        time.sleep(0.005)
