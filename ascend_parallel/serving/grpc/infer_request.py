"""A ModelInferRequest, read: what it asks for, and its tensors as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import ShapeError, UsageError
from ascend_parallel.serving.bytes_tensor import decode, to_bytes_array
from ascend_parallel.serving.datatypes import BYTES, find_dtype
from ascend_parallel.serving.infer_head import (
    InferHead,
    OutputRef,
    TensorRef,
    check_parameters,
    check_shape,
    read_region,
    read_timeout_s,
)

from .messages import ModelInferRequest, parse
from .wire import RequestParts, split_request

#: The numbers of the fields in a ModelInferRequest.
_ID, _RAW = 3, 7
#: Heads that are kept, and how long one may be: a head with tensors in it never comes again.
_MAX_KEPT = 1024
_MAX_KEPT_BYTES = 4096
#: Where a datatype's elements are if they are not raw, by the kind and the size of the dtype.
_CONTENTS = {
    "b1": "bool_contents",
    **dict.fromkeys(("i1", "i2", "i4"), "int_contents"),
    "i8": "int64_contents",
    **dict.fromkeys(("u1", "u2", "u4"), "uint_contents"),
    "u8": "uint64_contents",
    "f4": "fp32_contents",
    "f8": "fp64_contents",
    "O8": "bytes_contents",
}


class GrpcHead(NamedTuple):
    """What a request says beside its raw contents.

    Attributes:
        model: the model's name.
        version: its version; "" for the latest.
        head: what is asked for; an input's ``start`` is the number of its raw contents.
    """

    model: str
    version: str
    head: InferHead


class GrpcRequest(NamedTuple):
    """A request.

    Attributes:
        model: the model's name.
        version: its version; "" for the latest.
        head: what is asked for.
        arrays: the inputs in the client's order; None for those in shared-memory regions.
    """

    model: str
    version: str
    head: InferHead
    arrays: list[Array | None]


_kept: dict[bytes, GrpcHead] = {}


def split(data: bytes) -> RequestParts:
    """Take a request apart; raises UsageError where it is no ModelInferRequest."""
    return split_request(data, _ID, _RAW)


def read_request(data: bytes, parts: RequestParts) -> GrpcRequest:
    """Read a request that was taken apart; raw contents are not copied.

    Raises:
        UsageError: it is no ModelInferRequest, or not what the protocol says.
        ShapeError: there are more or fewer elements than the shapes say.
    """
    known = _kept.get(parts.head)
    if known is None:
        known = _read_head(parts.head)
    head = known.head
    _check_raw(head, len(parts.raw))
    arrays = [_read_array(ref, data, parts.raw) for ref in head.inputs]
    return GrpcRequest(known.model, known.version, head, arrays)


def _check_raw(head: InferHead, given: int) -> None:
    """Check that each input has its tensor in one way."""
    expected = sum([ref.start >= 0 for ref in head.inputs])
    if given and given != expected:
        raise UsageError(
            f"there are {given} raw_input_contents for {expected} inputs that have neither contents nor a "
            "shared-memory region; expected one for each"
        )


def _read_array(ref: TensorRef, data: bytes, raw: list[tuple[int, int]]) -> Array | None:
    if ref.region is not None:
        return None
    if ref.start < 0:
        return _read_contents(ref)
    if not raw:  # neither raw nor typed: right if there are no elements
        if ref.size_bytes:
            raise UsageError(f"input {ref.name!r} has no elements: neither raw_input_contents nor contents")
        return np.empty(ref.shape, ref.dtype)
    start, size_bytes = raw[ref.start]
    if ref.dtype is BYTES:
        return decode(f"input {ref.name!r}", memoryview(data)[start : start + size_bytes], ref.shape)
    if size_bytes != ref.size_bytes:
        raise ShapeError(
            f"input {ref.name!r} has {size_bytes} bytes of raw_input_contents, but its shape {list(ref.shape)} and its "
            f"datatype make {ref.size_bytes}"
        )
    return np.frombuffer(data, ref.dtype, size_bytes // ref.dtype.itemsize, start).reshape(ref.shape)


def _read_contents(ref: TensorRef) -> Array:
    """Return a tensor whose elements are in the message one by one."""
    dtype = ref.dtype
    count = ref.size_bytes // dtype.itemsize
    if len(ref.data) != count:
        raise ShapeError(f"input {ref.name!r} has {len(ref.data)} elements, but its shape is {list(ref.shape)}")
    if dtype is BYTES:
        return to_bytes_array(ref.data, ref.shape)
    if dtype.kind in "iu" and dtype.itemsize < 4:
        info = np.iinfo(dtype)
        low, high = min(ref.data), max(ref.data)
        if low < info.min or high > info.max:
            raise ShapeError(f"input {ref.name!r}: its elements go from {low} to {high}, beyond {dtype}")
    return np.fromiter(ref.data, dtype, count).reshape(ref.shape)


# ---- what is not raw


def _read_head(text: bytes) -> GrpcHead:
    message = parse(ModelInferRequest, text)
    inputs: list[TensorRef] = []
    number = 0
    for position, tensor in enumerate(message.inputs):
        inputs.append(_read_input(tensor, position, number))
        number += inputs[-1].start >= 0
    names = tuple([ref.name for ref in inputs])
    if len(set(names)) < len(names):
        raise UsageError(f"an input is given twice: {', '.join(names)}")
    outputs = tuple([_read_output(output) for output in message.outputs])
    if len({ref.name for ref in outputs}) < len(outputs):
        raise UsageError("an output is asked for twice")
    timeout_s = read_timeout_s(_read_parameters(message, "the request"))
    has_regions = any(ref.region for ref in inputs) or any(ref.region for ref in outputs)
    has_text = any(ref.dtype is BYTES for ref in inputs)
    head = InferHead("", tuple(inputs), outputs or None, True, 0, timeout_s, names, has_regions, has_text)
    known = GrpcHead(message.model_name, message.model_version, head)
    if len(text) <= _MAX_KEPT_BYTES and all(ref.data is None for ref in inputs):
        if len(_kept) >= _MAX_KEPT:
            _kept.clear()
        _kept[text] = known
    return known


def _read_input(tensor: Any, position: int, number: int) -> TensorRef:
    name = tensor.name
    if not name:
        raise UsageError(f"inputs[{position}] has no name")
    what = f"input {name!r}"
    dtype = find_dtype(name, tensor.datatype)
    shape = tuple(tensor.shape)
    size_bytes = check_shape(what, shape, dtype)
    region = read_region(what, _read_parameters(tensor, what), None if dtype is BYTES else size_bytes)
    size_bytes = region[2] if region else size_bytes
    data = _find_contents(what, tensor, dtype)
    if region is not None and data is not None:
        raise UsageError(f"{what} has both contents and a shared-memory region; expected one of them")
    start = number if region is None and data is None else -1
    return TensorRef(name, dtype, shape, start, size_bytes, data, region and region[:2])


def _find_contents(what: str, tensor: Any, dtype: np.dtype[Any]) -> Any:
    """Return the elements of a tensor that are in the message one by one; None if there are none."""
    given = [field.name for field, _ in tensor.contents.ListFields()]
    if not given:
        return None
    expected = _CONTENTS.get(f"{dtype.kind}{dtype.itemsize}")
    if expected is None:
        raise ShapeError(f"{what} is {tensor.datatype}, which has no contents: send it as raw_input_contents")
    if given != [expected]:
        raise ShapeError(f"{what} is {tensor.datatype}, so its elements go to {expected}; it has {', '.join(given)}")
    return getattr(tensor.contents, expected)


def _read_output(output: Any) -> OutputRef:
    if not output.name:
        raise UsageError("an output that is asked for has no name")
    what = f"output {output.name!r}"
    parameters = _read_parameters(output, what)
    if parameters.get("classification"):
        raise UsageError(f"{what}: this server has no classification extension")
    return OutputRef(output.name, True, read_region(what, parameters, None))


def _read_parameters(holder: Any, what: str) -> Mapping[str, Any]:
    parameters = {}
    for name, value in holder.parameters.items():
        choice = value.WhichOneof("parameter_choice")
        parameters[name] = None if choice is None else getattr(value, choice)
    check_parameters(parameters, what)
    return parameters
