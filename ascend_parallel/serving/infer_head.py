"""What an infer request asks for, whichever protocol it came by: inputs, outputs and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ascend_parallel.errors import ShapeError, UsageError

from .bytes_tensor import check_count
from .datatypes import BYTES

#: Elements along an axis, or bytes of a tensor, are less.
_MAX_SIZE = 1 << 63
_MAX_AXES = 32
#: Parameters of a request that ask for what this server does not do.
_REFUSED = {
    "sequence_id": "sequences",
    "sequence_start": "sequences",
    "sequence_end": "sequences",
    "priority": "priorities",
}


class TensorRef(NamedTuple):
    """One input of a request.

    Attributes:
        name: of the input.
        dtype: of its elements.
        shape: of the tensor.
        start: where its bytes begin behind the JSON (REST), or which of the raw contents it is (gRPC); -1 where they
            are elsewhere.
        size_bytes: how many there are; of BYTES in JSON and in gRPC, where only the bytes tell, another number.
        data: its elements where they are in the JSON, or are typed contents; None elsewhere.
        region: (name, offset in bytes) in a shared-memory region; None elsewhere.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    size_bytes: int
    data: Any
    region: tuple[str, int] | None


class OutputRef(NamedTuple):
    """One output that a client asked for.

    Attributes:
        name: of the output.
        is_binary: whether its bytes are wanted behind the JSON; always for gRPC.
        region: (name, offset, size in bytes) of the shared-memory region that is to take it; None for none.
    """

    name: str
    is_binary: bool
    region: tuple[str, int, int] | None


class InferHead(NamedTuple):
    """What an infer request says beside the bytes of its tensors.

    Attributes:
        id: the client's name of the request; "" for none, and in gRPC, where it is read apart.
        inputs: in the client's order.
        outputs: those asked for; None for all.
        is_binary: whether outputs that were not asked for by name are wanted behind the JSON.
        binary_bytes: how many bytes are expected behind the JSON; 0 in gRPC.
        timeout_s: how long the request may take; None where the client does not say.
        names: of the inputs.
        has_regions: whether a tensor is in a shared-memory region, or goes to one.
        has_text: whether an input is of BYTES.
        is_all_binary: whether each output is wanted behind the JSON, whose only other content is the model's name.
    """

    id: str
    inputs: tuple[TensorRef, ...]
    outputs: tuple[OutputRef, ...] | None
    is_binary: bool
    binary_bytes: int
    timeout_s: float | None
    names: tuple[str, ...]
    has_regions: bool
    has_text: bool
    is_all_binary: bool = False


def read_region(what: str, parameters: Mapping[str, Any], size_bytes: int | None) -> tuple[str, int, int] | None:
    """Return the shared-memory region that a tensor is in or goes to: (name, offset, size).

    Args:
        what: the tensor, for messages.
        parameters: of the tensor.
        size_bytes: what the size is to be; None where it is not known.
    """
    name = parameters.get("shared_memory_region")
    if name is None:
        return None
    if not isinstance(name, str):
        raise UsageError(f"{what}: shared_memory_region is {name!r:.200}; expected a string")
    offset = parameters.get("shared_memory_offset", 0)
    size = parameters.get("shared_memory_byte_size")
    if type(offset) is not int or offset < 0 or type(size) is not int or size < 0:
        raise UsageError(f"{what}: shared_memory_byte_size and shared_memory_offset are to be whole numbers")
    if size_bytes is not None and size != size_bytes:
        raise ShapeError(f"{what}: shared_memory_byte_size is {size}, but shape and datatype make {size_bytes} bytes")
    return name, offset, size


def read_timeout_s(parameters: Mapping[str, Any]) -> float | None:
    """Return the request's timeout in seconds; the parameter is in microseconds, as Triton's is."""
    timeout_us = parameters.get("timeout")
    if timeout_us is None or timeout_us == 0:
        return None
    if type(timeout_us) is not int or not 0 <= timeout_us < _MAX_SIZE:
        raise UsageError(f"timeout is {timeout_us!r:.100}; expected a number of microseconds")
    return timeout_us / 1e6


def check_parameters(parameters: Mapping[str, Any], what: str) -> None:
    """Refuse parameters that ask for what this server does not do."""
    for name, meaning in _REFUSED.items():
        if parameters.get(name):
            raise UsageError(f"{what}: {name} is given, but this server has no {meaning}")


def check_shape(what: str, shape: Sequence[Any], dtype: np.dtype[Any]) -> int:
    """Check the shape of a tensor; return the size of the array in bytes."""
    if len(shape) > _MAX_AXES or not all(type(size) is int and 0 <= size < _MAX_SIZE for size in shape):
        raise ShapeError(
            f"{what}: shape is {list(shape[: _MAX_AXES + 1])!r:.200}; expected up to 32 whole numbers of at least 0"
        )
    size_bytes = room = dtype.itemsize
    for size in shape:
        size_bytes *= size
        room *= size or 1
    if room >= _MAX_SIZE:  # numpy has no such array, not even an empty one
        raise ShapeError(f"{what}: shape is {list(shape)!r:.200}, which is too large")
    if dtype is BYTES:
        check_count(what, shape)
    return size_bytes
