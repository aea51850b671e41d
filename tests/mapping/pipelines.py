"""Pipelines for the tests of mapping, loaded by path in the workers (Python 3.7 runs this file, too).

The name of a file selects what happens: "bad" raises, "crash" ends the worker with a segmentation fault, "hang" never
returns.
"""

import os
import signal
import sys
import time

import numpy as np


def act(path):
    """Do what the file's name selects."""
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
    """Return a pipeline that returns dicts; it appends a line for each batch to the file ``log``."""

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
    """An object whose ``predict`` is a generator."""

    def __init__(self, device):
        self.device = device

    def predict(self, paths):
        for path in paths:
            act(path)
            yield {"path": path, "device": self.device}


def pages(device):
    """Like PaddleX with PDFs: several results per file, each with its input path, and files in another order."""

    def predict(paths):
        for path in reversed(paths):
            count = int(os.path.basename(path).split(".")[0])
            for page in range(count):
                yield PaddleLike(path, page if path.endswith(".pdf") else None)

    return predict


class PaddleLike(dict):
    """The known properties of PaddleX's results: a dict that cannot be pickled, with ``json`` and ``save_to_json``."""

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
    """A dict whose ``save_to_json`` finds a full disk."""

    def save_to_json(self, path):
        with open("/dev/full", "w") as file:
            file.write("x")


def full_disk(device, until=""):
    """Return results that find a full disk until the file ``until`` exists."""

    def predict(paths):
        return [{"path": path} if os.path.exists(until) or "ok" in path else Text() for path in paths]

    return predict


def of_each_kind(device):
    """Return a result of the kind that the file's name selects."""
    from PIL import Image

    results = {
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
    return lambda paths: [results[os.path.basename(path).split(".")[0]] for path in paths]


def too_few(device):
    """Silently drop bad files, as PaddleX drops unknown paths."""
    return lambda paths: [{"path": path} for path in paths if not os.path.basename(path).startswith("bad")]


def two_each(device, log=None):
    """Return two results per file, without input paths."""

    def predict(paths):
        with open(log, "a") as file:
            file.write(f"{len(paths)}\n")
        return [{"n": n, "path": path} for path in paths for n in range(2)]

    return predict


def one_thing(device):
    """Return one dict for the whole batch, which is invalid."""
    return lambda paths: {"paths": paths}


def threads(device):
    """Return the environment of the worker at its start."""
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
    """Work until the file ``flag`` exists; then running workers die and no worker can be built."""
    if os.path.exists(flag):
        os._exit(9)

    def predict(paths):
        if os.path.exists(flag):
            os._exit(9)
        time.sleep(0.01)
        return [{"path": path} for path in paths]

    return predict


def to_row(path):
    """Return a row of three numbers from the name of a file: 12.jpg becomes 12, 13, 14."""
    act(path)
    return np.arange(3, dtype=np.float64) + int(os.path.basename(path).split(".")[0])


def to_result(outputs):
    """Return the sum of a row's outputs."""
    return {name: float(array.sum()) for name, array in outputs.items()}


def sticky(device, log=None):
    """Always fail in a process that has processed a file named "poison", as after CUDA's illegal memory access."""
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
    """Fail at once for bad files, and be slow for others; append a line to ``log`` for each batch of the latter."""

    def predict(paths):
        for path in paths:
            act(path)
        with open(log, "a") as file:
            file.write(f"{len(paths)}\n")
        time.sleep(ms / 1000.0 * len(paths))
        return [{"path": path} for path in paths]

    return predict


class Formats(dict):
    """A result that saves itself in some formats, as PaddleX's do: into a folder, by the input's stem."""

    def _write(self, folder, ending):
        stem = os.path.splitext(os.path.basename(self["input_path"]))[0]
        path = os.path.join(folder, stem + ending)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("{input_path} page {page_index}".format(**self))

    def save_to_json(self, save_path):
        self._write(save_path, "_res.json")

    def save_to_markdown(self, save_path):
        self._write(save_path, ".md")
        self._write(os.path.join(save_path, "imgs"), "_cut.png")

    def save_to_html(self, save_path):
        """Write nothing, as for a page without a table."""

    def save_to_img(self, save_path):
        if os.path.basename(self["input_path"]).startswith("full"):
            with open("/dev/full", "w") as file:
                file.write("x")
        if os.path.basename(self["input_path"]).startswith("unsaved"):
            raise FileNotFoundError(2, "No such file or directory", "/fonts/a.ttf")
        self._write(save_path, "_img.png")

    def save_to_word(self, save_path):
        raise ImportError("No module named 'docx'")


def formats(device, scale=1):
    """Return a pipeline of one result per file, or three for a .pdf, with an option of ``predict``."""

    def predict(paths, scale=1):
        for path in paths:
            act(path)
            pages = range(3) if path.endswith(".pdf") else [None]
            for page in pages:
                yield Formats(input_path=path, page_index=page, scale=scale)

    return predict


class Restructuring:
    """Like PaddleOCR-VL's pipelines."""

    def __init__(self, device):
        self.device = device

    def predict(self, paths):
        for path in paths:
            for page in range(3):
                yield Formats(input_path=path, page_index=page)

    def restructure_pages(self, results, merge_tables=True, relevel_titles=True, concatenate_pages=False):
        pages = [result["page_index"] for result in results]
        assert pages == [0, 1, 2], pages
        if concatenate_pages:
            return [Formats(results[0], page_index=None, pages=pages)]
        return [Formats(result, restructured=True) for result in results]


def broken_device(device, log=None, bad="0"):
    """Fail for every file on one device; append a line for each process to ``log``."""
    with open(log, "a") as file:
        file.write(f"{device}\n")

    def predict(paths):
        if device.endswith(bad):
            raise RuntimeError(f"the device {device} is broken")
        time.sleep(0.05)
        return [{"path": path} for path in paths]

    return predict


def counts_processes(device, log=None):
    """As ``describe``; append a line for each process to ``log``."""
    with open(log, "a") as file:
        file.write(f"{device}\n")
    return describe(device)
