"""Engines from outside: subclasses of the base class, named ``package.module:Class`` or ``path/to/file.py:Class``.

The master loads the class too, for its attributes, before it starts anything.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import traceback
import types
from typing import Any, Callable, List, Optional, Sequence, Tuple, Type

import numpy as np

from .base import Arrays, Engine, Run, TensorSpec
from .callable import load_module, read_specs


def load_engine(where: str) -> Type[Engine]:
    """Return the engine's class, with ``where`` as its name.

    Raises:
        ImportError: its module cannot be imported by this interpreter; says why.
        TypeError: it names no subclass of :class:`Engine`, or one that lacks a method.
    """
    source, _, name = where.rpartition(":")
    try:
        found = load_module(source)
    except (Exception, SystemExit) as error:
        raise ImportError(
            "the engine %s cannot be imported by %s: %s%s"
            % (where, sys.executable, _describe(error), _advise(error, source))
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise TypeError("there is no engine %s: %s has no %s%s" % (where, source, name, _list_engines(found)))
        found = getattr(found, part)
    if not isinstance(found, type) or not issubclass(found, Engine):
        raise TypeError("the engine %s is no subclass of ascend_parallel.Engine, but %r" % (where, found))
    needed = ("__init__", "predict", "share") if found.can_share else ("__init__", "predict")
    missing = [method for method in needed if getattr(found, method) is getattr(Engine, method)]
    if missing:
        why = "can_share is True" if missing[0] == "share" else "every engine needs one"
        raise TypeError("the engine %s has no method %s of its own; %s" % (where, missing[0], why))
    return _rename(found, where)


def _rename(engine: Type[Engine], where: str) -> Type[Engine]:
    """Return a subclass that differs by its name only, as the class is its author's."""
    body = {"name": where, "__module__": engine.__module__, "__doc__": engine.__doc__}
    return types.new_class(engine.__name__, (engine,), {}, lambda namespace: namespace.update(body))


def _describe(error: BaseException) -> str:
    """Return an error in a line: its type, its message, and the line of source that it comes from."""
    ours = (os.path.dirname(__file__), os.path.dirname(importlib.__file__), "<frozen")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    where = " (%s, line %s)" % (frames[-1].filename, frames[-1].lineno) if frames else ""
    return "%s: %s%s" % (type(error).__name__, " ".join(str(error).split()), where)


def _advise(error: BaseException, source: str) -> str:
    """Return what to do, to append to a message; "" where the error says it."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    if (source + ".").startswith(error.name + "."):
        return "; it is looked for where this interpreter looks, in PYTHONPATH and in the working directory"
    return "; install it there, or import a runtime in __init__, where only the worker needs it"


def _list_engines(module: Any) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Engine) and value is not Engine
    ]
    return "; it has: %s" % ", ".join(names) if names else ""


class CheckedEngine(Engine):
    """An engine from outside; its specs and results are checked, as wrong ones would do harm far from their cause."""

    def __init__(self, inner: Engine, name: str) -> None:
        self._inner = inner
        self.name = name
        self.inputs = self._specs("inputs")
        self.outputs = self._specs("outputs")

    def _specs(self, attribute: str) -> Optional[List[TensorSpec]]:
        """Return the engine's own inputs or outputs as plain names, dtypes and shapes; raises TypeError."""
        try:
            return read_specs(self._inner, attribute)
        except (TypeError, ValueError) as error:
            raise TypeError(
                "%s of %s is %r (%s); expected a list of TensorSpec(name, dtype, shape), or None"
                % (attribute, self.name, getattr(self._inner, attribute), error)
            ) from error

    def predict(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Run the model; raises TypeError where what it returns is no dict of name -> array of plain elements."""
        return self._run_checked(self._inner.predict, names, inputs, destinations)

    def bind(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Run:
        """Return what the engine's own ``bind`` returns, checked likewise each time that it is called."""
        return functools.partial(self._run_checked, self._inner.bind(names, inputs, destinations))

    def _run_checked(self, run: Callable[..., Arrays], *arguments: Any) -> Arrays:
        results = run(*arguments)
        if not isinstance(results, dict):
            raise TypeError("%s returned a %s; expected a dict of output name -> array" % (self.name, _kind(results)))
        for name, array in results.items():
            if not isinstance(name, str) or not isinstance(array, np.ndarray):
                raise TypeError(
                    "%s returned a dict of %s -> %s; expected output name -> numpy array"
                    % (self.name, _kind(name), _kind(array))
                )
            if array.dtype.hasobject or array.dtype.kind == "V":  # their bytes mean nothing in another process
                raise TypeError(
                    "output %r of %s holds %s elements, which do not travel between processes; return numpy arrays of "
                    "numbers" % (name, self.name, array.dtype)
                )
        if self.outputs is None:  # some runtimes tell them only by predicting
            self.outputs = self._specs("outputs")
        return results

    def set_device(self, device: Tuple[str, int]) -> None:
        """Tell the engine."""
        self._inner.set_device(device)

    def share(self) -> Engine:
        """Return the engine of one more thread, checked too."""
        return CheckedEngine(self._inner.share(), self.name)

    def close(self) -> None:
        """Close the engine."""
        self._inner.close()


def _kind(value: Any) -> str:
    return type(value).__name__
