"""A request of Paddle Serving's clients: JSON or a message, and what a pipeline gets of it."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import from_json

from ascend_parallel.errors import UsageError

from .codes import PackageError

#: elem_type -> the dtype, and the field that holds the elements.
_FIELDS = {
    0: ("int64", "int64_data"),
    1: ("float32", "float_data"),
    2: ("int32", "int_data"),
    3: ("float64", "float64_data"),
    4: ("int16", "int_data"),
    5: ("float16", "float_data"),
    6: ("uint16", "uint32_data"),  # bfloat16, whose bits are passed on
    7: ("uint8", "uint32_data"),
    8: ("int8", "int_data"),
    9: ("bool", "bool_data"),
}
_TEXT, _NPY = 12, 13


class PaddleRequest(NamedTuple):
    """What a request asks for.

    Attributes:
        inputs: name -> text or array.
        log_id: the client's number of it; 0 for none.
    """

    inputs: dict[str, Any]
    log_id: int


def parse_json(text: bytes) -> Any:
    """Return the message that JSON stands for; raises UsageError. Keys that the message does not have are ignored."""
    # Not above: a server without such clients, and without gRPC, does not need protobuf.
    from google.protobuf.json_format import ParseDict, ParseError

    from ascend_parallel.serving.grpc.messages import PaddleRequest as Message

    try:
        body = from_json(text) if text.strip() else {}
    except ValueError as error:
        raise UsageError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise UsageError('the body is no JSON object; expected {"key": [...], "value": [...]}')
    try:
        return ParseDict(body, Message(), ignore_unknown_fields=True)
    except ParseError as error:
        raise UsageError(
            f'the body is no request of Paddle Serving ({error}); expected {{"key": [...], "value": [...]}} with text '
            "in both lists"
        ) from None


def read_request(message: Any) -> PaddleRequest:
    """Return what a message asks for; raises PackageError."""
    keys, values = message.key, message.value
    if len(values) < len(keys):
        raise PackageError(f"key has {len(keys)} names and value {len(values)} texts; expected a text for each name")
    inputs: dict[str, Any] = dict(zip(keys, values, strict=False))  # more values than keys are ignored, as there
    for tensor in message.tensors:
        inputs[tensor.name] = _read_tensor(tensor)
        if tensor.lod:
            inputs[f"{tensor.name}.lod"] = _to_array(tensor, tensor.lod, "int32", (2, -1))
    return PaddleRequest(inputs, message.logid)


def _read_tensor(tensor: Any) -> Any:
    if tensor.elem_type == _TEXT:
        return "".join(tensor.str_data)
    if tensor.elem_type == _NPY:
        return _read_npy(tensor)
    if tensor.elem_type not in _FIELDS:
        raise PackageError(
            f"tensor {tensor.name!r:.200} has the elem_type {tensor.elem_type}; expected 0 to 9, 12 or 13"
        )
    dtype, field = _FIELDS[tensor.elem_type]
    return _to_array(tensor, getattr(tensor, field), dtype, tuple(tensor.shape))


def _to_array(tensor: Any, elements: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    try:
        with np.errstate(over="ignore"):
            return np.array(elements).astype(dtype).reshape(shape)
    except ValueError as error:
        raise PackageError(f"tensor {tensor.name!r:.200}: {error}") from None


def _read_npy(tensor: Any) -> Any:
    """Return the array of a .npy file; one with Python objects is refused, as it could run code."""
    try:
        return np.load(io.BytesIO(tensor.byte_data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise PackageError(f"byte_data of tensor {tensor.name!r:.200} is no .npy file of numbers: {error}") from None
