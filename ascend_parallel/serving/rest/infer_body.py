"""The body of an infer request: JSON, and behind it the bytes of tensors (the binary tensor extension).

Clients send the same JSON again and again with other bytes behind it, so what was read of it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from pydantic_core import from_json

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import ShapeError, UsageError
from ascend_parallel.serving.datatypes import find_dtype

from .json_tensor import read_json_tensor

T = TypeVar("T")

#: JSON heads that are kept, and how long one may be: a head with tensors in it never comes again.
_MAX_KEPT = 1024
_MAX_KEPT_BYTES = 4096

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
        start: where its bytes begin behind the JSON; -1 where they are elsewhere.
        size_bytes: how many there are.
        data: its elements where they are in the JSON; None elsewhere.
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
        is_binary: whether its bytes are wanted behind the JSON.
        region: (name, offset, size in bytes) of the shared-memory region that is to take it; None for none.
    """

    name: str
    is_binary: bool
    region: tuple[str, int, int] | None


class InferHead(NamedTuple):
    """The JSON of an infer request.

    Attributes:
        id: the client's name of the request; "" for none.
        inputs: in the client's order.
        outputs: those asked for; None for all.
        is_binary: whether outputs that were not asked for by name are wanted behind the JSON.
        binary_bytes: how many bytes are expected behind the JSON.
        timeout_s: how long the request may take; None where the client does not say.
        names: of the inputs.
        has_regions: whether a tensor is in a shared-memory region, or goes to one.
    """

    id: str
    inputs: tuple[TensorRef, ...]
    outputs: tuple[OutputRef, ...] | None
    is_binary: bool
    binary_bytes: int
    timeout_s: float | None
    names: tuple[str, ...]
    has_regions: bool


_kept: dict[bytes, InferHead] = {}


def read_head(text: bytes) -> InferHead:
    """Read the JSON of an infer request.

    Raises:
        UsageError: it is no JSON, or not what the protocol says.
    """
    head = _kept.get(text)
    if head is None:
        head = _read_head(text)
        if len(text) <= _MAX_KEPT_BYTES and not head.id and all(ref.data is None for ref in head.inputs):
            if len(_kept) >= _MAX_KEPT:
                _kept.clear()
            _kept[text] = head
    return head


def read_arrays(head: InferHead, binary: bytes | Array, offset: int) -> list[Array | None]:
    """Return the inputs as arrays, in the client's order; None for those in shared-memory regions.

    Args:
        head: what the JSON says.
        binary: the bytes that hold the tensors; not copied.
        offset: where they begin in it.

    Raises:
        ShapeError: there are more or fewer bytes than the JSON says, or the elements in the JSON do not fit.
    """
    given = len(binary) - offset
    if given != head.binary_bytes:
        raise ShapeError(
            f"{given} bytes follow the JSON, but its binary_data_size values add up to {head.binary_bytes}"
        )
    arrays: list[Array | None] = []
    for ref in head.inputs:
        if ref.start >= 0:
            arrays.append(_view(binary, offset + ref.start, ref))
        elif ref.region is not None:
            arrays.append(None)
        else:
            arrays.append(read_json_tensor(ref.name, ref.dtype, ref.shape, ref.data))
    return arrays


def _view(binary: bytes | Array, start: int, ref: TensorRef) -> Array:
    """Return the tensor whose bytes begin at ``start``, without a copy where its elements are aligned."""
    if isinstance(binary, bytes):
        return np.frombuffer(binary, ref.dtype, ref.size_bytes // ref.dtype.itemsize, start).reshape(ref.shape)
    part = binary[start : start + ref.size_bytes]  # its base is the block of shared memory, which a batch may use
    if start % ref.dtype.itemsize:
        part = part.copy()
    return part.view(ref.dtype).reshape(ref.shape)


# ---- the JSON


def _read_head(text: bytes) -> InferHead:
    try:
        body = from_json(text)
    except ValueError as error:
        raise UsageError(f"the body is not JSON: {error}") from None
    body = _read(body, dict, "the body", "an object")
    given = _read(body.get("inputs"), list, "inputs", "an array of tensors")
    parameters = _read_parameters(body, "the request")
    inputs: list[TensorRef] = []
    at = 0
    for position, tensor in enumerate(given):
        inputs.append(_read_input(tensor, position, at))
        at += inputs[-1].size_bytes if inputs[-1].start >= 0 else 0
    names = tuple(ref.name for ref in inputs)
    if len(set(names)) < len(names):
        raise UsageError(f"an input is given twice: {', '.join(names)}")
    identity = _read(body.get("id", ""), str, "id", "a string")
    is_binary = _read(parameters.get("binary_data_output", False), bool, "binary_data_output", "true or false")
    outputs = _read_outputs(body.get("outputs"), is_binary)
    has_regions = any(ref.region for ref in inputs) or any(ref.region for ref in outputs or ())
    return InferHead(identity, tuple(inputs), outputs, is_binary, at, _read_timeout(parameters), names, has_regions)


def _read_input(tensor: object, position: int, at: int) -> TensorRef:
    what = f"inputs[{position}]"
    tensor = _read(tensor, dict, what, "an object")
    name = _read(tensor.get("name"), str, f"{what}.name", "a string")
    what = f"input {name!r}"
    dtype = find_dtype(name, tensor.get("datatype"))
    shape = _read_shape(what, tensor.get("shape"))
    size_bytes = dtype.itemsize
    for size in shape:
        size_bytes *= size
    parameters = _read_parameters(tensor, what)
    region = _read_region(what, parameters, size_bytes)
    declared = parameters.get("binary_data_size")
    forms = [region is not None, declared is not None, "data" in tensor]
    if forms.count(True) != 1:
        raise UsageError(f"{what} needs one of data, binary_data_size and shared_memory_region; it has {sum(forms)}")
    if declared is None:
        if region is None and dtype == np.float16:
            raise ShapeError(f"{what} is FP16, which has no JSON form: send it as binary data")
        return TensorRef(name, dtype, shape, -1, size_bytes, tensor.get("data"), region and region[:2])
    if type(declared) is not int or declared != size_bytes:
        raise ShapeError(
            f"{what}: binary_data_size is {declared!r}, but its shape and datatype make {size_bytes} bytes"
        )
    return TensorRef(name, dtype, shape, at, size_bytes, None, None)


def _read_shape(what: str, shape: object) -> tuple[int, ...]:
    shape = _read(shape, list, f"{what}: shape", "an array of whole numbers")
    if not all(type(size) is int and 0 <= size < 1 << 63 for size in shape) or len(shape) > 32:
        raise ShapeError(f"{what}: shape is {shape!r:.200}; expected up to 32 whole numbers of at least 0")
    return tuple(shape)


def _read_outputs(outputs: object, is_binary: bool) -> tuple[OutputRef, ...] | None:
    if outputs is None:
        return None
    found = []
    for position, output in enumerate(_read(outputs, list, "outputs", "an array of outputs")):
        output = _read(output, dict, f"outputs[{position}]", "an object")
        name = _read(output.get("name"), str, f"outputs[{position}].name", "a string")
        what = f"output {name!r}"
        parameters = _read_parameters(output, what)
        if parameters.get("classification"):
            raise UsageError(f"{what}: this server has no classification extension")
        wants_binary = _read(parameters.get("binary_data", is_binary), bool, f"{what}: binary_data", "true or false")
        found.append(OutputRef(name, wants_binary, _read_region(what, parameters, None)))
    if len({ref.name for ref in found}) < len(found):
        raise UsageError("an output is asked for twice")
    return tuple(found) or None


def _read_region(what: str, parameters: Mapping[str, Any], size_bytes: int | None) -> tuple[str, int, int] | None:
    """Return the shared-memory region that a tensor is in or goes to: (name, offset, size)."""
    name = parameters.get("shared_memory_region")
    if name is None:
        return None
    name = _read(name, str, f"{what}: shared_memory_region", "a string")
    offset = parameters.get("shared_memory_offset", 0)
    size = parameters.get("shared_memory_byte_size")
    if type(offset) is not int or offset < 0 or type(size) is not int or size < 0:
        raise UsageError(f"{what}: shared_memory_byte_size and shared_memory_offset are to be whole numbers")
    if size_bytes is not None and size != size_bytes:
        raise ShapeError(f"{what}: shared_memory_byte_size is {size}, but shape and datatype make {size_bytes} bytes")
    return name, offset, size


def _read_parameters(holder: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    parameters = _read(holder.get("parameters", {}), dict, f"{what}: parameters", "an object")
    for name, meaning in _REFUSED.items():
        if parameters.get(name):
            raise UsageError(f"{what}: {name} is given, but this server has no {meaning}")
    return parameters


def _read_timeout(parameters: Mapping[str, Any]) -> float | None:
    """Return the request's timeout in seconds; the parameter is in microseconds, as Triton's is."""
    timeout_us = parameters.get("timeout")
    if timeout_us is None or timeout_us == 0:
        return None
    if type(timeout_us) is not int or timeout_us < 0:
        raise UsageError(f"timeout is {timeout_us!r}; expected a number of microseconds")
    return timeout_us / 1e6


def _read(value: object, kind: type[T], what: str, expected: str) -> T:
    """Return a value of the JSON if it is of the right kind."""
    if not isinstance(value, kind):
        shown = "missing" if value is None else repr(value)[:200]
        raise UsageError(f"{what} is {shown}; expected {expected}")
    return value


def wanted_names(outputs: Sequence[OutputRef] | None) -> list[str] | None:
    """Return the names of the outputs that were asked for; None for all."""
    return None if outputs is None else [ref.name for ref in outputs]
