"""Tensors of the datatype BYTES: text, encoded pictures, whatever is some bytes an element.

In Python such a tensor is an array of objects, each a ``bytes``. As bytes, each element is its length (4 bytes,
little-endian) and itself. In JSON, an element is a string, which stands for its bytes in UTF-8.

Source: Triton Inference Server, "Binary Tensor Data Extension".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import ShapeError

from .datatypes import BYTES

#: Each element is an object of Python, which takes 33 bytes and some time, however small the body is that claims it.
MAX_ELEMENTS = 1 << 20
_LENGTH = struct.Struct("<I")


def check_count(what: str, shape: Sequence[int]) -> None:
    """Refuse a tensor of too many elements; raises ShapeError."""
    count = math.prod(shape)
    if count > MAX_ELEMENTS:
        raise ShapeError(
            f"{what}: shape {list(shape)} makes {count} elements of BYTES; the server takes at most {MAX_ELEMENTS} a "
            "tensor"
        )


def to_bytes_array(elements: Iterable[bytes], shape: Sequence[int]) -> Array:
    """Return a tensor of these elements."""
    array: Array = np.empty(math.prod(shape), BYTES)
    array[:] = list(elements)
    return array.reshape(shape)


def decode(what: str, data: Any, shape: tuple[int, ...]) -> Array:
    """Return a tensor that came as bytes.

    Args:
        what: the tensor, for messages.
        data: its bytes; anything with a buffer.
        shape: of the tensor.

    Raises:
        ShapeError: these are no such elements, or more or fewer of them.
    """
    view = memoryview(data)
    size, count = len(view), math.prod(shape)
    if count * _LENGTH.size > size:
        raise ShapeError(f"{what}: its shape {list(shape)} makes {count} elements, for which {size} bytes are too few")
    elements = []
    at = 0
    for number in range(count):
        if at + _LENGTH.size > size:
            raise ShapeError(f"{what}: its bytes end before element {number} of {count}")
        start = at + _LENGTH.size
        (length,) = _LENGTH.unpack_from(view, at)
        at = start + length
        if at > size:
            raise ShapeError(f"{what}: element {number} is to have {length} bytes, but only {size - start} follow")
        elements.append(bytes(view[start:at]))
    if at < size:
        raise ShapeError(f"{what}: {size - at} bytes follow its {count} elements")
    return to_bytes_array(elements, shape)


def encode(array: Array) -> Array:
    """Return the bytes of a tensor, as an array of uint8."""
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        parts += (_LENGTH.pack(len(element)), element)
    return np.frombuffer(b"".join(parts), np.uint8)


def wire_bytes(array: Array) -> int:
    """Return how many bytes a tensor takes as bytes, whatever its dtype."""
    if array.dtype is not BYTES:
        return array.nbytes
    return _LENGTH.size * array.size + sum(map(len, array.ravel().tolist()))


def to_strings(name: str, array: Array) -> list[str]:
    """Return the elements of an output as JSON has them; raises ShapeError where one is no text."""
    strings = []
    for number, element in enumerate(array.ravel().tolist()):
        try:
            strings.append(element.decode())
        except UnicodeDecodeError:
            raise ShapeError(
                f"output {name!r}: element {number} is no UTF-8 text, and has no JSON form: ask for it as binary data"
            ) from None
    return strings
