"""A ModelInferResponse, written. Outputs are raw, as in Triton, however the inputs came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import RefusedError, UsageError
from ascend_parallel.serving.bytes_tensor import encode, wire_bytes
from ascend_parallel.serving.datatypes import BYTES, find_datatype
from ascend_parallel.serving.infer_head import OutputRef

from .messages import ModelInferResponse, ModelStreamInferResponse, serialize
from .status import sentence_of
from .wire import start_field

#: The numbers of fields: in a ModelInferResponse, and in a ModelStreamInferResponse.
_ID, _RAW = 3, 6
_RESPONSE = 2
#: Heads of answers that are kept: they differ in rows only.
_MAX_KEPT = 1024
_SMALL_BYTES = 1 << 14
#: A model here gives one answer to each request, so each one is the last.
_FINAL = {"triton_final_response": {"bool_param": True}}

Parts = list[bytes | memoryview]

_kept: dict[Any, tuple[bytes, list[bytes]]] = {}


def write_answer(
    model: str,
    version: str,
    identity: str,
    refs: tuple[OutputRef, ...] | None,
    outputs: Mapping[str, Array],
    *,
    is_stream: bool,
) -> bytes:
    """Return the answer with the outputs that the client asked for, in its order; their bytes are copied once.

    Args:
        model: the model's name.
        version: its version.
        identity: the client's name of the request.
        refs: the outputs that it asked for; None for all.
        outputs: all outputs of the model.
        is_stream: whether it is one of a stream's.

    Raises:
        UsageError: the model has no output of a name.
    """
    chosen = [OutputRef(name, True, None) for name in outputs] if refs is None else list(refs)
    arrays = [_find(outputs, ref.name) for ref in chosen]
    key = (model, version, is_stream, *[(ref, a.dtype, a.shape) for ref, a in zip(chosen, arrays, strict=True)])
    known = _kept.get(key)
    if known is None:
        starts = [start_field(_RAW, 0 if ref.region else wire_bytes(a)) for ref, a in zip(chosen, arrays, strict=True)]
        known = _write_head(model, version, chosen, arrays, is_stream), starts
        if not any(array.dtype is BYTES for array in arrays):
            if len(_kept) >= _MAX_KEPT:
                _kept.clear()
            _kept[key] = known
    head, starts = known
    parts: Parts = [head]
    if identity:
        data = identity.encode()
        parts += (start_field(_ID, len(data)), data)
    for ref, start, array in zip(chosen, starts, arrays, strict=True):
        parts.append(start)  # outputs in regions have raw contents without bytes: clients find the others by number
        if ref.region is None:
            parts.append(_bytes_of(array))
    if is_stream:
        parts.insert(0, start_field(_RESPONSE, sum([memoryview(part).nbytes for part in parts])))
    return b"".join(parts)


def write_stream_error(error: Exception, model: str, version: str, identity: str) -> bytes:
    """Return what a stream has in the place of an answer that cannot be given."""
    parameters: dict[str, Any] = dict(_FINAL)
    if isinstance(error, RefusedError):
        parameters["error_code"] = {"string_param": str(error.code)}
    response = {"model_name": model, "model_version": version, "id": identity, "parameters": parameters}
    message = sentence_of(error)
    return serialize(ModelStreamInferResponse, {"error_message": message, "infer_response": response})


def _write_head(model: str, version: str, refs: list[OutputRef], arrays: list[Array], is_stream: bool) -> bytes:
    """Return the answer without id and outputs."""
    described = []
    for ref, array in zip(refs, arrays, strict=True):
        entry: dict[str, Any] = {
            "name": ref.name,
            "datatype": find_datatype(ref.name, array.dtype),
            "shape": list(array.shape),
        }
        if ref.region is not None:
            entry["parameters"] = {
                "shared_memory_region": {"string_param": ref.region[0]},
                "shared_memory_byte_size": {"int64_param": wire_bytes(array)},
                "shared_memory_offset": {"int64_param": ref.region[1]},
            }
        described.append(entry)
    fields: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if is_stream:
        fields["parameters"] = _FINAL
    return serialize(ModelInferResponse, fields)


def _find(outputs: Mapping[str, Array], name: str) -> Array:
    if name not in outputs:
        raise UsageError(f"the model has no output {name!r}; it has {', '.join(outputs)}")
    return outputs[name]


def _bytes_of(array: Array) -> bytes | memoryview:
    if array.dtype is BYTES:
        array = encode(array)
    if array.nbytes <= _SMALL_BYTES:
        return array.tobytes()  # quicker than a view
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
