"""What ops gave, made into the tensors of an answer: protocols have nothing else.

A number or a boolean is a tensor of shape (1,): FP64 and INT64 for Python's, or its own datatype for numpy's. Text is
BYTES, in UTF-8. A list is a tensor of as many elements; lists in it, or arrays, are its further axes. An empty list is
FP64, as nobody can tell.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import EngineError
from ascend_parallel.serving.bytes_tensor import to_bytes_array
from ascend_parallel.serving.datatypes import DATATYPES
from ascend_parallel.worker.ops.user_op import describe

from .graph import Values, Wiring

_TEXT = (str, bytes)
_NUMBER = (bool, int, float, np.generic)
_EXPECTED = "an answer has arrays of numbers, booleans or text, single ones, and lists of these"


class NoTensorError(ValueError):
    """A value that is no tensor; the message is the rest of a sentence, such as "is a dict"."""


def make_tensors(answer: Wiring, outputs: Values) -> dict[str, Array]:
    """Return the outputs of a pipeline as tensors.

    Args:
        answer: what they are made of, to name the op to blame.
        outputs: output name -> what an op gave.

    Raises:
        EngineError: one of them is no tensor; names it, its op, and what that gave.
    """
    return {name: _make_named(answer, name, value) for name, value in outputs.items()}


def _make_named(answer: Wiring, name: str, value: Any) -> Array:
    try:
        return make_tensor(value)
    except NoTensorError as error:
        ops = [source.op for source in answer if source.output is None or name == (source.name or source.output)]
        who = " or ".join(map(repr, dict.fromkeys(ops)))
        raise EngineError(f"op {who}: the output {name!r} {error}, which is no tensor; {_EXPECTED}") from None


def make_tensor(value: Any) -> Array:
    """Return a value as a tensor; raises NoTensorError."""
    if isinstance(value, np.ndarray):
        return _from_array(value)
    if isinstance(value, _TEXT):
        return to_bytes_array([_to_bytes(value)], (1,))
    if isinstance(value, _NUMBER):
        return _from_array(_to_numbers(value))
    if isinstance(value, list | tuple):
        return _from_list(value)
    raise NoTensorError(f"is {describe(value)}")


def _from_array(array: Array) -> Array:
    if not array.ndim:
        array = array.reshape(1)
    if array.dtype.kind in "OUS":
        return to_bytes_array(map(_to_bytes, array.ravel().tolist()), array.shape)
    if array.dtype.newbyteorder("=") not in DATATYPES:
        raise NoTensorError(f"is an array of {array.dtype}")
    return array


def _from_list(values: list[Any] | tuple[Any, ...]) -> Array:
    first: Any = values
    while isinstance(first, list | tuple) and first:
        first = first[0]
    return _from_texts(values) if isinstance(first, _TEXT) else _from_array(_to_numbers(values))


def _from_texts(values: list[Any] | tuple[Any, ...]) -> Array:
    """Return lists of text, each as long as those beside it, as one tensor."""
    sizes = [len(values)]
    elements: list[Any] = list(values)
    while elements and isinstance(elements[0], list | tuple):
        if not all(isinstance(element, list | tuple) and len(element) == len(elements[0]) for element in elements):
            raise NoTensorError("is a list that is ragged")
        sizes.append(len(elements[0]))
        elements = list(itertools.chain.from_iterable(elements))
    assert len(elements) == math.prod(sizes)
    return to_bytes_array(map(_to_bytes, elements), sizes)


def _to_numbers(value: Any) -> Array:
    try:
        array = np.array(value)
    except OverflowError as error:
        raise NoTensorError(f"holds a number that is too large ({error})") from None
    except Exception:  # what numpy says of ragged lists
        raise NoTensorError("is a list that is ragged") from None
    if array.dtype.kind not in "biufc":
        raise NoTensorError(_why_no_numbers(value))
    return array


def _why_no_numbers(value: Any) -> str:
    """Return what is in a value, or in its lists, that is no number."""
    if not isinstance(value, list | tuple):
        return "is a number that is too large"
    elements = list(value)
    while elements and isinstance(elements[0], list | tuple):
        elements = list(itertools.chain.from_iterable(elements))
    wrong = [element for element in elements if not isinstance(element, _NUMBER)]
    return f"is a list with {describe(wrong[0])}" if wrong else "is a list with a number that is too large"


def _to_bytes(element: Any) -> bytes:
    if isinstance(element, bytes):
        return element
    if not isinstance(element, str):
        raise NoTensorError(f"is a list with text and {describe(element)}")
    try:
        return element.encode()
    except UnicodeEncodeError:
        raise NoTensorError(f"is the text {element[:20]!r}, which UTF-8 does not have") from None
