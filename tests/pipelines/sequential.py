"""The plain evaluation of a pipeline: one op after the other, in this process, by no code of the package's own."""

import functools
from typing import NamedTuple

import numpy as np
import onnxruntime

from ascend_parallel import ProductError, Skip


class Failure(NamedTuple):
    """How an op fails with a request.

    Attributes:
        op: its name; "" for the pipeline's answer.
        code: the op's own; None where it is no product error.
        text: of a product error; else "".
    """

    op: str
    code: int | None = None
    text: str = ""


class OpFailedError(Exception):
    """An op that got something wrong, or returned it."""


@functools.cache
def session_of(path):
    """Return an ONNX Runtime session for a model's file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_model(path, feeds):
    """Return the outputs of a model by name, where its inputs have the right names, axes and rows."""
    session = session_of(path)
    specs = {spec.name: spec.shape for spec in session.get_inputs()}
    shapes = {name: np.shape(array) for name, array in feeds.items()}
    fits = specs.keys() == shapes.keys() and len({shape[0] for shape in shapes.values()}) == 1
    if not fits or any(len(shape) != len(shapes[name]) for name, shape in specs.items()):
        raise OpFailedError
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


class Sequential:
    """The ops, each built once."""

    def __init__(self, ops, python):
        """Take the settings of ops, and how ``python`` of one becomes an object."""
        self._models = {op["name"]: op.get("path") for op in ops}
        self._objects = {op["name"]: python(op) for op in ops if "python" in op}

    def run(self, inputs, outputs, request):
        """Return the answer, or the set of all failures that may be the first.

        Args:
            inputs: op -> what it reads, as in YAML.
            outputs: what the answer is, as in YAML.
            request: the inputs of the request.
        """
        values = {"request": dict(request)}
        failures = set()
        left = dict(inputs)
        while ready := [op for op, sources in left.items() if all(name in values for name in ops_of(sources))]:
            for op in ready:
                try:
                    values[op] = self._run_op(op, collect(left.pop(op), values))
                except ProductError as error:
                    failures.add(Failure(op, error.code, error.text))
                except Exception:
                    failures.add(Failure(op))
        return failures or collect(outputs, values)

    def _run_op(self, op, inputs):
        path, python = self._models[op], self._objects.get(op)
        if python is None:
            return run_model(path, inputs)
        answer = python.predict(inputs) if path is None else self._run_around(python, path, inputs)
        if not isinstance(answer, dict):
            raise OpFailedError
        return answer

    def _run_around(self, python, path, inputs):
        made = python.preprocess(inputs)
        feeds = made if isinstance(made, list) else [made]
        if not all(isinstance(feed, dict | Skip) for feed in feeds):
            raise OpFailedError
        found = [feed.values if isinstance(feed, Skip) else run_model(path, feed) for feed in feeds]
        return python.postprocess(found if isinstance(made, list) else found[0], inputs)


def ops_of(sources):
    """Return the names of the ops that are read."""
    if isinstance(sources, str):
        sources = [sources]
    return [text.partition(".")[0] for text in (sources.values() if isinstance(sources, dict) else sources)]


def collect(sources, values):
    """Return what is read, by name."""
    if isinstance(sources, dict):
        pairs = [(name, *text.split(".")) for name, text in sources.items()]
        return {name: values[op][output] for name, op, output in pairs}
    found = {}
    for op in ops_of(sources):
        found |= values[op]
    return found


def assert_same(given, expected):
    """Check that two values are the same, bit by bit."""
    assert type(given) is type(expected), (given, expected)
    if isinstance(expected, dict):
        assert list(given) == list(expected)
        for name, value in expected.items():
            assert_same(given[name], value)
    elif isinstance(expected, list):
        assert len(given) == len(expected)
        for one, other in zip(given, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert (given.dtype, given.shape) == (expected.dtype, expected.shape)
        assert given.tobytes() == expected.tobytes()
    else:
        assert given == expected
