"""The Python of an op: how it is built, what is called, and what its answers may be.

An op is one of these:

- Python alone: an object with a method ``predict(inputs)``, or a callable. It gets a dict and returns one.
- A model alone: its inputs are taken by name out of the dict; the answer is its outputs.
- Python around a model: an object with ``preprocess(inputs)``, ``postprocess(outputs, inputs)``, or both.

``preprocess`` returns a dict of the model's inputs (rows along axis 0), or a list of such dicts (mini-batches), or
:class:`.interface.Skip` in place of either. ``postprocess`` gets the outputs: a dict, or a list in the order of the
mini-batches, with the values of a Skip in its place. Its ``inputs`` is the very dict that ``preprocess`` got, which may
have put something there. The arrays in it are read-only, and valid until the op has answered.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

import numpy as np

from ..engines.callable import find_predict, load_object
from .adapter import OpAdapter, Prepared
from .failures import WrongAnswer, WrongValue
from .interface import Skip
from .model_runner import ModelRunner, join_outputs
from .packing import with_article

_FEEDS = "a dict of input name -> array, or a list of such dicts (mini-batches)"


class UserOp(OpAdapter):
    """An op of this package's own interface."""

    def __init__(
        self, python: Optional[str], options: Dict[str, Any], device: str, model: Optional[ModelRunner]
    ) -> None:
        """Build the user's object.

        Args:
            python: ``module:Class`` or ``file.py:Class``; None for a model alone.
            options: keyword arguments of the class.
            device: such as ``cpu:0``; the class gets it as the keyword ``device``.
            model: the model; None for Python alone.

        Raises:
            Exception: it cannot be built; the message is a sentence.
        """
        self.target = None if python is None else build_object(python, {"device": device, **options})
        self._model = model
        self._predict: Optional[Callable[[Any], Any]] = None
        self._preprocess = getattr(self.target, "preprocess", None)
        self._postprocess = getattr(self.target, "postprocess", None)
        self.has_preprocess = self._preprocess is not None
        if model is None:
            if python is None:
                raise ValueError("it has neither a model nor Python")
            self._predict, self.last_step = find_predict(self.target, python), "predict"
        elif python is not None and self._preprocess is None and self._postprocess is None:
            raise TypeError(
                "%s has neither preprocess nor postprocess, one of which is needed around a model; for Python alone "
                "(predict, or a callable), leave the model out" % python
            )

    def preprocess(self, entry: Dict[str, Any]) -> Prepared:
        """Return the feeds of a request."""
        if self._predict is not None:
            return Prepared([], True)
        inputs = entry["inputs"]
        feeds = self._choose(inputs) if self._preprocess is None else self._preprocess(inputs)
        return read_prepared(feeds, "preprocess", _FEEDS + ", or Skip(values) in place of a dict")

    def postprocess(self, entry: Dict[str, Any], prepared: Prepared, outputs: List[Any]) -> Dict[str, Any]:
        """Return the answer to a request, from what came of its feeds."""
        if self._predict is not None:
            return check_answer("predict", self._predict(entry["inputs"]))
        given = outputs if prepared.is_list else outputs[0]
        if self._postprocess is not None:
            return check_answer("postprocess", self._postprocess(given, entry["inputs"]))
        return join(outputs) if prepared.is_list else check_answer("preprocess, with Skip,", given)

    def _choose(self, inputs: Dict[str, Any]) -> Dict[str, Any]:
        """Return the model's inputs, or all arrays if it does not tell them."""
        names = None if self._model is None else self._model.input_names
        if names is None:
            return {name: value for name, value in inputs.items() if isinstance(value, np.ndarray)}
        missing = [name for name in names if name not in inputs]
        if missing:
            raise WrongValue(
                "it got no %r, which the model needs, and has no preprocess to make it of: %s"
                % (missing[0], ", ".join(map(repr, inputs)) or "nothing")
            )
        return {name: inputs[name] for name in names}


def build_object(python: str, keywords: Dict[str, Any]) -> Any:
    """Return what ``module:Class`` or ``file.py:Class`` makes of keyword arguments; the errors are sentences."""
    try:
        factory = load_object(python)
    except Exception as error:
        raise ImportError("%s cannot be loaded: %s: %s" % (python, type(error).__name__, error)) from error
    try:
        return factory(**keywords)
    except Exception as error:
        raise RuntimeError(
            "%s could not be built with %s: %s: %s"
            % (python, ", ".join("%s=%r" % item for item in keywords.items()), type(error).__name__, error)
        ) from error


def read_prepared(feeds: Any, method: str, expected: str) -> Prepared:
    """Return the feeds that a method returned, checked; raises WrongAnswer."""
    if isinstance(feeds, (dict, Skip)):
        return Prepared([feeds], False)
    if not isinstance(feeds, list):
        raise WrongAnswer("%s returned %s; expected %s" % (method, describe(feeds), expected))
    for position, feed in enumerate(feeds):
        if not isinstance(feed, (dict, Skip)):
            raise WrongAnswer(
                "%s returned a list with %s at %d; expected %s" % (method, describe(feed), position, expected)
            )
    return Prepared(feeds, True)


def join(outputs: List[Any]) -> Dict[str, Any]:
    """Return the outputs of mini-batches as one answer, where there is no postprocess; raises WrongAnswer."""
    if not outputs:
        raise WrongAnswer("preprocess returned an empty list, and there is no postprocess to make an answer of it")
    reason, joined = join_outputs(outputs)
    if reason:
        raise WrongAnswer(
            "the outputs of the mini-batches cannot be put together (%s): add a postprocess(outputs, inputs)" % reason
        )
    return joined


def check_answer(method: str, answer: Any) -> Dict[str, Any]:
    """Return the answer if it is a dict; else raise WrongAnswer."""
    if not isinstance(answer, dict):
        raise WrongAnswer("%s returned %s; expected a dict of name -> value" % (method, describe(answer)))
    return answer


def describe(value: Any) -> str:
    """Return what a value is, in words: ``None``, ``a tuple of 3``, ``an array of shape (1, 3)``."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return "an array of shape %s" % (value.shape,)
    size = " of %d" % len(value) if isinstance(value, (list, tuple)) else ""
    return with_article(type(value).__name__) + size
