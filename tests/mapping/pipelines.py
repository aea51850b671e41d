"""Pipelines for the tests of mapping, loaded by path in the workers (Python 3.7 runs this, too).

What a file does is in its name: "bad" raises, "crash" ends its worker by a segmentation fault, "hang" never returns.
"""

import os
import signal
import sys
import time

import numpy as np


def act(path):
    """Do what a file's name says."""
    name = os.path.basename(path)
    if name.startswith("bad"):
        raise ValueError("cannot identify image file")
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("exit"):
        sys.exit(0)
    if name.startswith("hang"):
        time.sleep(1000)


def describe(device, log=None, ms=0):
    """Return a pipeline of dicts; ``log`` is a file that gets a line for each batch."""

    def predict(paths):
        if log is not None:
            with open(log, "a") as file:
                file.write(f"{len(paths)}\n")
        time.sleep(ms / 1000.0 * len(paths))
        for path in paths:
            act(path)
        return [{"path": path, "device": device} for path in paths]

    return predict


class Streaming:
    """An object with ``predict``, a generator."""

    def __init__(self, device):
        self.device = device

    def predict(self, paths):
        for path in paths:
            act(path)
            yield {"path": path, "device": self.device}


def pages(device):
    """Like PaddleX with PDFs: several results for a file, each saying whose it is; out of order between files."""

    def predict(paths):
        for path in reversed(paths):
            count = int(os.path.basename(path).split(".")[0])
            for page in range(count):
                yield PaddleLike(path, page if path.endswith(".pdf") else None)

    return predict


class PaddleLike(dict):
    """What is known of PaddleX's results: a dict that cannot be pickled, with ``json`` and ``save_to_json``."""

    def __init__(self, path, page=None):
        super().__init__(input_path=path, page_index=page, lock=PaddleLike)

    def __reduce__(self):
        raise TypeError("cannot pickle")

    @property
    def json(self):
        return {"res": {"input_path": self["input_path"], "page_index": self["page_index"]}}

    def save_to_json(self, path):
        assert path.endswith(".json")
        with open(path, "w") as file:
            file.write('{"saved by itself": "' + self["input_path"] + '"}')


class Text(dict):
    """A dict whose own way of saving meets a full disk, once for each process."""

    def save_to_json(self, path):
        with open("/dev/full", "w") as file:
            file.write("x")


def full_disk(device, until=""):
    """Return results that meet a full disk until a file is there."""

    def predict(paths):
        return [{"path": path} if os.path.exists(until) or "ok" in path else Text() for path in paths]

    return predict


def of_each_kind(device):
    """Return a result of the kind that the file's name says."""
    from PIL import Image

    made = {
        "dict": {"n": np.int64(3), "f": np.float32(0.5), "a": np.arange(3), "nested": [{"b": np.bool_(True)}], 1: "é"},
        "list": [1, "two", np.arange(2)],
        "number": np.float64(2.5),
        "none": None,
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        "arrays": {"boxes": np.eye(2, dtype=np.float32), "labels": np.array([1, 2])},
        "image": Image.new("RGB", (4, 2), (255, 0, 9)),
        "text": "grüße",
        "bytes": b"raw",
        "object": {"x": object()},
        "objects": np.array([object()]),
        "keys": {np.int64(1): np.arange(2), (1, 2): 3},
    }
    return lambda paths: [made[os.path.basename(path).split(".")[0]] for path in paths]


def too_few(device):
    """Drop what is bad in silence, as PaddleX does with unknown paths."""
    return lambda paths: [{"path": path} for path in paths if not os.path.basename(path).startswith("bad")]


def two_each(device, log=None):
    """Return two results for each file that do not say whose they are."""

    def predict(paths):
        with open(log, "a") as file:
            file.write(f"{len(paths)}\n")
        return [{"n": n, "path": path} for path in paths for n in range(2)]

    return predict


def one_thing(device):
    """Return one dict for the whole batch, which is a mistake."""
    return lambda paths: {"paths": paths}


def threads(device):
    """Return the environment that the worker was started with."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PADDLE_PDX_CPU_NUM_THREADS")
    at_import = {name: os.environ.get(name) for name in names}
    return lambda paths: [dict(at_import, device=device, pid=os.getpid()) for _ in paths]


def dies_building(device):
    """End the worker while it builds."""
    os._exit(7)


def raises_building(device, model="default"):
    """Fail to build."""
    raise RuntimeError(f"no weights for {model}")


def dies_after(device, flag):
    """Be of use until a file is there; from then on no worker can be built, and those that run die."""
    if os.path.exists(flag):
        os._exit(9)

    def predict(paths):
        if os.path.exists(flag):
            os._exit(9)
        time.sleep(0.01)
        return [{"path": path} for path in paths]

    return predict


def to_row(path):
    """Return a row of three numbers, from a file's name: 12.jpg is 12, 13, 14."""
    act(path)
    return np.arange(3, dtype=np.float64) + int(os.path.basename(path).split(".")[0])


def to_result(outputs):
    """Return the sum of a row's outputs."""
    return {name: float(array.sum()) for name, array in outputs.items()}


def sticky(device, log=None):
    """Fail for ever in a process that has met a file named "poison", as after CUDA's illegal memory access."""
    state = {"is_broken": False}

    def predict(paths):
        for path in paths:
            if os.path.basename(path).startswith("poison"):
                state["is_broken"] = True
            if state["is_broken"]:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            act(path)
        return [{"path": path} for path in paths]

    return predict


def slow_when_good(device, log, ms):
    """Fail at once, or take time; ``log`` gets a line for each batch that does."""

    def predict(paths):
        for path in paths:
            act(path)
        with open(log, "a") as file:
            file.write(f"{len(paths)}\n")
        time.sleep(ms / 1000.0 * len(paths))
        return [{"path": path} for path in paths]

    return predict
