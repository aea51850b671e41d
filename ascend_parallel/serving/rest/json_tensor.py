"""Tensors in JSON: numbers, nested by row or flat, as the protocol allows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import ShapeError

#: Kinds of numpy arrays that a JSON array may make -> what they can be sent as.
_ACCEPTED = {"b": "b", "i": "iuf", "u": "iuf", "f": "f"}


def read_json_tensor(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], data: object) -> Array:
    """Return the tensor that a JSON array holds.

    Raises:
        ShapeError: it is no array, is ragged, or has other elements than the datatype, or another number of them.
    """
    if not isinstance(data, list):
        raise ShapeError(f"input {name!r}: data is not an array")
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if not data and count == 0:
        return np.empty(shape, dtype)
    try:
        found = np.array(data)
        if (
            dtype == np.uint64 and found.dtype == np.float64
        ):  # numpy takes no integers from 2**63 on beside smaller ones
            found = _to_uint64(np.array(data, object))
    except ValueError:
        raise ShapeError(f"input {name!r}: data is ragged; expected {count} numbers, flat or nested by shape") from None
    if dtype.kind not in _ACCEPTED.get(found.dtype.kind, ""):
        raise ShapeError(f"input {name!r}: data holds what is no {_word(dtype)}")
    if found.size != count or (found.ndim != 1 and found.shape != shape):
        raise ShapeError(f"input {name!r}: data has {found.size} elements ({found.shape}); its shape is {list(shape)}")
    return _cast(name, found, dtype).reshape(shape)


def _to_uint64(found: Array) -> Array:
    """Return Python's integers as an array of uint64, if that is what they all are."""
    is_whole = all(type(value) is int and 0 <= value < 1 << 64 for value in found.flat)
    return found.astype(np.uint64) if is_whole else found


def _cast(name: str, found: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        if found.size and (int(found.min()) < info.min or int(found.max()) > info.max):
            raise ShapeError(f"input {name!r}: data goes from {found.min()} to {found.max()}, beyond {dtype}")
    with np.errstate(over="ignore"):
        cast = found.astype(dtype)
    if dtype.kind == "f" and not np.array_equal(np.isinf(cast), np.isinf(found.astype(np.float64))):
        raise ShapeError(f"input {name!r}: data holds numbers beyond {dtype}")
    return cast


def _word(dtype: np.dtype[Any]) -> str:
    return {"b": "boolean", "f": "number"}.get(dtype.kind, "whole number")
