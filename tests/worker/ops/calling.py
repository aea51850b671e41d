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


def assert_same(found, given):
    """Compare what came back with what was packed: tuples are lists, scalars arrays, texts in arrays of objects."""
    if isinstance(given, (np.ndarray, np.generic)):
        given = np.asarray(given)
        assert isinstance(found, np.ndarray) and found.shape == given.shape
        if given.dtype.kind in "OUS":
            assert found.dtype == object and found.tolist() == given.tolist()
        else:
            assert found.dtype == given.dtype.newbyteorder("=") and found.dtype.isnative
            assert found.flags.c_contiguous
            np.testing.assert_array_equal(found, given)
    elif isinstance(given, dict):
        assert type(found) is dict and list(found) == list(given)
        for key in given:
            assert_same(found[key], given[key])
    elif isinstance(given, (list, tuple)):
        assert type(found) is list and len(found) == len(given)
        for one, other in zip(found, given, strict=True):
            assert_same(one, other)
    else:
        assert type(found) is type(given)
        assert found == given or (found != found and given != given)
