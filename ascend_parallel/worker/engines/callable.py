"""The callable engine: any Python object can be the model.

``module:factory`` or ``path/to/file.py:factory`` names a callable. The worker calls it once, with ``device="gpu:1"``
and the user's ``engine_options`` as keyword arguments. It returns an object with a ``predict`` method, or a callable.
That is called with the caller's inputs (a dict of arrays, or a list) and returns a dict, a list, or one array. Its
input arrays are read-only and valid during the call only.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import zlib
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from .base import Arrays, Engine, TensorSpec


class CallableEngine(Engine):
    """Any Python callable. Each instance is a process, because a callable may not be thread-safe."""

    name = "callable"
    device_types = ("ascend", "gpu", "cpu", "simulated")
    options = None

    def __init__(self, model: str, device: Tuple[str, int], options: Dict[str, Any]) -> None:
        factory = load_object(model)
        target = factory(device="%s:%d" % device, **options)
        self._predict = find_predict(target, model)
        self.inputs = read_specs(target, "inputs")
        self.outputs = read_specs(target, "outputs")

    @classmethod
    def why_not_precision(
        cls, precision: str, files: Dict[str, str], device_types: Iterable[str], options: Dict[str, Any]
    ) -> str:
        """Report that the user's code chooses it."""
        return "a callable chooses it in its own code: leave precision out, or give its factory an engine option"

    def predict(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Call the user's model with a dict, or with a list if the caller passed one."""
        arguments = list(inputs) if names is None else dict(zip(names, inputs))
        return name_outputs(self._predict(arguments))


def load_object(where: str) -> Any:
    """Return the object that ``module:name`` or ``file.py:name`` names."""
    source, _, name = where.rpartition(":")
    value = load_module(source)
    for part in name.split("."):
        value = getattr(value, part)
    return value


def load_module(source: str) -> Any:
    """Return a module by its name, or by the path of its file."""
    return _load_file(source) if source.endswith(".py") else importlib.import_module(source)


def _load_file(path: str) -> Any:
    # A name that hides no other module: engine files are often called like the runtime that they import.
    name = "%s_file_%s" % (os.path.splitext(os.path.basename(path))[0], zlib.crc32(os.fsencode(os.path.abspath(path))))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise ImportError("there is no Python file %s" % path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def find_predict(target: Any, model: str) -> Callable[[Any], Any]:
    """Return the callable that predicts: the object's ``predict`` method, or the object itself."""
    predict: Callable[[Any], Any] = getattr(target, "predict", target)
    if not callable(predict):
        raise TypeError(
            "%s returned a %s; expected an object with a predict method, or a callable" % (model, type(target).__name__)
        )
    return predict


def read_specs(target: Any, attribute: str) -> Optional[List[TensorSpec]]:
    """Return a model's ``inputs`` or ``outputs`` attribute, a list of (name, dtype, shape); None if it has none."""
    specs = getattr(target, attribute, None)
    if specs is None or callable(specs):
        return None
    return [TensorSpec(str(name), np.dtype(dtype).name, tuple(shape)) for name, dtype, shape in specs]


def name_outputs(result: Any) -> Arrays:
    """Return a model's result as a dict: one array is named "output", those of a list "output0", "output1", ..."""
    if isinstance(result, dict):
        return {str(name): _array(value, str(name)) for name, value in result.items()}
    if isinstance(result, (list, tuple)):
        return {"output%d" % i: _array(value, "output%d" % i) for i, value in enumerate(result)}
    return {"output": _array(result, "output")}


def _array(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.hasobject or array.dtype.kind == "V":  # records and bfloat16 would be received as plain bytes
        raise TypeError(
            "output %r has %s elements, which cannot be sent between processes; return numpy arrays of numbers"
            % (name, array.dtype)
        )
    return array
