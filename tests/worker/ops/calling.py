"""Calls an op engine as a worker does: packed requests in, answers out."""

from pathlib import Path

import numpy as np

from ascend_parallel.worker.engines import find_engine
from ascend_parallel.worker.ops.packing import Packed, unpack

FILE = Path(__file__).with_name("ops_of_tests.py")


def op(python=None, model=None, **options):
    """Return an op engine: ``model`` is a class of ops_of_tests.py."""
    if model is not None:
        options = {"engine": "callable", **options}
    engine_model = "" if model is None else f"{FILE}:{model}"
    python = python and f"{FILE}:{python}"
    engine = find_engine("op")(engine_model, ("cpu", 0), {"name": "det", "python": python, **options})
    if model is not None:
        runs(engine).clear()  # the warm-up
    return engine


def call(engine, entries, outside=()):
    """Return the answers to the entries of a task; what the engine gets is read-only."""
    request = Packed(entries, find_outside=lambda array: next((i for i, o in enumerate(outside) if o is array), None))
    buffer = request.to_array()
    for array in (buffer, *outside):
        array.flags.writeable = False
    return unpack(engine.predict(["request"], [buffer, *outside], {})["reply"])


def ask(engine, *inputs, **options):
    """Return the answers to requests with these inputs."""
    return call(engine, [{"inputs": each} for each in inputs], **options)


def x(value, rows=1, **others):
    """Return inputs with ``x``, so many rows of three equal numbers."""
    return {"x": np.full((rows, 3), value, np.float32), **others}


def runs(engine):
    """Return what the model notes of each run: its rows."""
    return engine._inner._predict.__self__.runs
