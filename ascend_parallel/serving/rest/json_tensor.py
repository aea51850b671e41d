"""Tensors in JSON: numbers or strings, nested by row or flat, as the protocol allows."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import ShapeError
from ascend_parallel.serving.bytes_tensor import to_bytes_array
from ascend_parallel.serving.datatypes import BYTES

#: Types of JSON's elements -> kinds of numpy's dtypes that take them.
_ACCEPTED = {bool: "b", int: "iuf", float: "f", str: "O"}


def read_json_tensor(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], data: object) -> Array:
    """Return the tensor that a JSON array holds.

    Raises:
        ShapeError: it is no array, is ragged, or has other elements than the datatype, or another number of them.
    """
    if not isinstance(data, list):
        raise ShapeError(f"input {name!r}: data is not an array")
    count = math.prod(shape)
    sizes, elements = _flatten(name, data)
    if not all(dtype.kind in _ACCEPTED.get(kind, "") for kind in set(map(type, elements))):
        raise ShapeError(f"input {name!r}: data holds what is no {_word(dtype)}")
    if len(elements) != count or (len(sizes) > 1 and sizes != shape):
        raise ShapeError(f"input {name!r}: data has {len(elements)} elements {sizes}; its shape is {list(shape)}")
    if dtype is BYTES:
        return to_bytes_array(map(str.encode, elements), shape)
    return _to_array(name, elements, dtype).reshape(shape)


def _flatten(name: str, data: list[Any]) -> tuple[tuple[int, ...], list[Any]]:
    """Return the sizes of nested arrays, and their elements; raises ShapeError where they are ragged."""
    sizes = [len(data)]
    while data and list in (kinds := set(map(type, data))):
        lengths = set(map(len, data)) if len(kinds) == 1 else set()
        if len(lengths) != 1:
            raise ShapeError(f"input {name!r}: data is ragged; expected its elements flat, or nested by shape")
        sizes.append(lengths.pop())
        data = list(itertools.chain.from_iterable(data))
    return tuple(sizes), data


def _to_array(name: str, elements: list[Any], dtype: np.dtype[Any]) -> Array:
    try:
        with np.errstate(over="ignore"):
            array = np.array(elements, dtype)
    except OverflowError:  # an integer
        raise ShapeError(f"input {name!r}: data goes from {min(elements)} to {max(elements)}, beyond {dtype}") from None
    if dtype.kind == "f" and np.isinf(array).sum() != sum(map(math.isinf, elements)):
        raise ShapeError(f"input {name!r}: data holds numbers beyond {dtype}")
    return array


def _word(dtype: np.dtype[Any]) -> str:
    return {"b": "boolean", "f": "number", "O": "string"}.get(dtype.kind, "whole number")
