"""The body of an infer request: JSON, and behind it the bytes of tensors (the binary tensor extension).

Clients send the same JSON again and again with other bytes behind it, so what was read of it is kept.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from pydantic_core import from_json

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import ShapeError, UsageError
from ascend_parallel.serving.bytes_tensor import decode
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

from .json_tensor import read_json_tensor

T = TypeVar("T")

#: JSON heads that are kept, and how long one may be: a head with tensors in it never comes again.
_MAX_KEPT = 1024
_MAX_KEPT_BYTES = 4096

#: Shows what a client sent, in a few words however large it is.
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 100
_shown = _repr.repr

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
    """Return the tensor whose bytes begin at ``start``, without a copy where its elements are aligned numbers."""
    if ref.dtype is BYTES:
        view = memoryview(binary)  # type: ignore[arg-type]
        return decode(f"input {ref.name!r}", view[start : start + ref.size_bytes], ref.shape)
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
    has_text = any(ref.dtype is BYTES for ref in inputs)
    timeout_s = read_timeout_s(parameters)
    wants_all = is_binary if outputs is None else all(ref.is_binary and ref.region is None for ref in outputs)
    is_all_binary = wants_all and not identity
    return InferHead(
        identity, tuple(inputs), outputs, is_binary, at, timeout_s, names, has_regions, has_text, is_all_binary
    )


def _read_input(tensor: object, position: int, at: int) -> TensorRef:
    what = f"inputs[{position}]"
    tensor = _read(tensor, dict, what, "an object")
    name = _read(tensor.get("name"), str, f"{what}.name", "a string")
    what = f"input {_shown(name)}"
    dtype = find_dtype(name, tensor.get("datatype"))
    shape = tuple(_read(tensor.get("shape"), list, f"{what}: shape", "an array of whole numbers"))
    size_bytes = check_shape(what, shape, dtype)
    parameters = _read_parameters(tensor, what)
    region = read_region(what, parameters, None if dtype is BYTES else size_bytes)
    declared = parameters.get("binary_data_size")
    forms = [region is not None, declared is not None, "data" in tensor]
    if forms.count(True) != 1:
        raise UsageError(f"{what} needs one of data, binary_data_size and shared_memory_region; it has {sum(forms)}")
    if declared is None:
        if region is None and dtype == np.float16:
            raise ShapeError(f"{what} is FP16, which has no JSON form: send it as binary data")
        size_bytes = region[2] if region else size_bytes
        return TensorRef(name, dtype, shape, -1, size_bytes, tensor.get("data"), region and region[:2])
    if dtype is not BYTES and (type(declared) is not int or declared != size_bytes):
        raise ShapeError(
            f"{what}: binary_data_size is {_shown(declared)}, but its shape and datatype make {size_bytes} bytes"
        )
    if type(declared) is not int or declared < 0:
        raise ShapeError(f"{what}: binary_data_size is {_shown(declared)}; expected a whole number of at least 0")
    return TensorRef(name, dtype, shape, at, declared, None, None)


def _read_outputs(outputs: object, is_binary: bool) -> tuple[OutputRef, ...] | None:
    if outputs is None:
        return None
    found = []
    for position, output in enumerate(_read(outputs, list, "outputs", "an array of outputs")):
        output = _read(output, dict, f"outputs[{position}]", "an object")
        name = _read(output.get("name"), str, f"outputs[{position}].name", "a string")
        what = f"output {_shown(name)}"
        parameters = _read_parameters(output, what)
        if parameters.get("classification"):
            raise UsageError(f"{what}: this server has no classification extension")
        wants_binary = _read(parameters.get("binary_data", is_binary), bool, f"{what}: binary_data", "true or false")
        found.append(OutputRef(name, wants_binary, read_region(what, parameters, None)))
    if len({ref.name for ref in found}) < len(found):
        raise UsageError("an output is asked for twice")
    return tuple(found) or None


def _read_parameters(holder: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    parameters = _read(holder.get("parameters", {}), dict, f"{what}: parameters", "an object")
    check_parameters(parameters, what)
    return parameters


def _read(value: object, kind: type[T], what: str, expected: str) -> T:
    """Return a value of the JSON if it is of the right kind."""
    if not isinstance(value, kind):
        shown = "missing" if value is None else _shown(value)
        raise UsageError(f"{what} is {shown}; expected {expected}")
    return value
