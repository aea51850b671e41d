"""Fixtures for the tests of the engines: per engine, one runner for each number of devices, shared by all tests."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests/models.py

import models

from ascend_parallel import ParallelPredictUtils

FACTORIES = Path(__file__).with_name("factories.py")
DTYPES = ["float16", "float32", "int32", "int64", "uint8", "bool"]

#: Each model exists for any number of rows, and ("..._fixed") for two.
_ONNX = {
    "linear": models.linear,
    "two": models.two,
    "unet": models.unet,
    "layer_norm": models.layer_norm,
    "embed": models.embed,
    **{
        f"same_{dtype}": functools.partial(models.same, dtype, in_floats=dtype in ("uint8", "bool")) for dtype in DTYPES
    },
}
#: Rows per task for models of any batch size, so that the chunks are the same on any number of devices.
CHUNK_SIZE = 3


class Bench:
    """One engine: its models, and runners with 1, 2 and 3 devices that have all models."""

    def __init__(self, engine, workers="processes"):
        self.engine = engine
        self.workers = workers
        self._runners = {}

    def reference(self, name, feeds, batch="batch"):
        """Return what ONNX Runtime computes in this process."""
        return models.run_onnx(_ONNX[name](batch), feeds)

    def runner(self, count, *, fixed=False):
        """Return a runner with ``count`` devices; it is opened once."""
        key = (count, fixed)
        if key not in self._runners:
            self._runners[key] = self.open(
                self._models(fixed),
                devices=f"cpu:0-{count - 1}",
                chunk_size=None if fixed else CHUNK_SIZE,
                batch_axes={"timestep": None} if self.engine == "callable" and not fixed else None,
            )
        return self._runners[key]

    def open(self, model, **options):
        runner = ParallelPredictUtils(model, workers=self.workers, **self.interpreter(), **options)
        runner.build_model()
        return runner

    def interpreter(self):
        return {"worker_python": models.mslite_python()} if self.engine == "mslite" else {}

    def file(self, path):
        """Return an ONNX model in the file format of this engine."""
        return models.convert(path) if self.engine == "mslite" else path

    def close(self):
        for runner in self._runners.values():
            runner.close()

    def _models(self, fixed):
        names = {f"{name}_fixed" if fixed else name: make for name, make in _ONNX.items()}
        if self.engine == "callable":
            return {name: f"{FACTORIES}:{name}" for name in names}
        return {name: self.file(make(2 if fixed else "batch")) for name, make in names.items()}


@pytest.fixture(
    scope="module",
    params=[
        "onnxruntime processes",
        "onnxruntime threads",
        pytest.param("mslite processes", marks=pytest.mark.mslite),
        "callable processes",
        "callable threads",
    ],
)
def bench(request):
    """Return each engine's bench in turn, on worker processes and, where this interpreter has it, on threads."""
    found = Bench(*request.param.split())
    found.interpreter()  # skips, or fails in CI, where MindSpore Lite is missing
    yield found
    found.close()


@pytest.fixture
def factory():
    """Return a function that returns the ``file.py:name`` of a callable model."""
    return lambda name: f"{FACTORIES}:{name}"


def feeds_for(name, rows, seed=0):
    """Return inputs with this number of rows for a model of the bench."""
    random = np.random.default_rng(seed + rows)
    name = name.removesuffix("_fixed")

    def normal(*shape):
        return random.standard_normal(shape).astype(np.float32)

    if name.startswith("same_"):
        dtype = name.removeprefix("same_")
        x = random.integers(0, 200, (rows, 3))
        return {"x": x % 2 == 0 if dtype == "bool" else x.astype(dtype)}
    return {
        "linear": lambda: {"x": normal(rows, 8)},
        "two": lambda: {"a": normal(rows, 4), "b": normal(rows, 4)},
        "unet": lambda: {
            "sample": normal(rows, 2, 4, 4),
            "timestep": np.array([0.7], np.float32),
            "ctx": normal(rows, 3, 4),
        },
        "layer_norm": lambda: {"x": normal(rows, 5, 8)},
        "embed": lambda: {"ids": random.integers(0, 10, (rows, 3))},
    }[name]()
