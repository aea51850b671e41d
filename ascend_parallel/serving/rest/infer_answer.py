"""The answer to an infer request: JSON, and behind it the bytes of the outputs that the client wants as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic_core import to_json

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import ShapeError, UsageError
from ascend_parallel.serving.bytes_tensor import encode, to_strings, wire_bytes
from ascend_parallel.serving.datatypes import BYTES, find_datatype
from ascend_parallel.serving.infer_head import InferHead, OutputRef

#: Heads of answers that are kept: they differ in rows only.
_MAX_KEPT = 1024

_kept: dict[Any, tuple[bytes, int]] = {}


class Answer:
    """The body of an answer.

    Attributes:
        head: its JSON.
        tensors: what follows, in order.
        size_bytes: of all.
    """

    __slots__ = ("head", "size_bytes", "tensors")

    def __init__(self, head: bytes, tensors: list[Array], size_bytes: int) -> None:
        self.head = head
        self.tensors = tensors
        self.size_bytes = size_bytes


def write_answer(model: str, version: str, head: InferHead, outputs: Mapping[str, Array]) -> Answer:
    """Return the answer with the outputs that the client asked for, in its order.

    Raises:
        UsageError: the model has no output of a name.
        ShapeError: an output has no JSON form.
    """
    if head.outputs is not None:
        outputs = {ref.name: _find(outputs, ref.name) for ref in head.outputs}
    if head.is_all_binary:
        return _write_binary(model, version, outputs)
    refs = head.outputs or [OutputRef(name, head.is_binary, None) for name in outputs]
    described: list[dict[str, Any]] = []
    tensors: list[Array] = []
    for ref in refs:
        array = outputs[ref.name]
        entry: dict[str, Any] = {
            "name": ref.name,
            "datatype": find_datatype(ref.name, array.dtype),
            "shape": list(array.shape),
        }
        if ref.region is not None:
            entry["parameters"] = {
                "shared_memory_region": ref.region[0],
                "shared_memory_byte_size": wire_bytes(array),
                "shared_memory_offset": ref.region[1],
            }
        elif ref.is_binary:
            tensors.append(_contiguous(array))
            entry["parameters"] = {"binary_data_size": tensors[-1].nbytes}
        else:
            entry["data"] = _to_list(ref.name, array)
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model, "model_version": version}
    if head.id:
        answer["id"] = head.id
    answer["outputs"] = described
    text = to_json(answer, inf_nan_mode="constants")
    return Answer(text, tensors, len(text) + sum([tensor.nbytes for tensor in tensors]))


def _write_binary(model: str, version: str, outputs: Mapping[str, Array]) -> Answer:
    """Return an answer of all outputs as bytes; its JSON is the same for equal shapes of numbers."""
    key = (model, version, *[(name, array.dtype, array.shape) for name, array in outputs.items()])
    known = _kept.get(key)
    if known is None:
        described = [
            {
                "name": name,
                "datatype": find_datatype(name, array.dtype),
                "shape": list(array.shape),
                "parameters": {"binary_data_size": wire_bytes(array)},
            }
            for name, array in outputs.items()
        ]
        head = json.dumps({"model_name": model, "model_version": version, "outputs": described}).encode()
        known = head, len(head) + sum([wire_bytes(array) for array in outputs.values()])
        if not any(array.dtype is BYTES for array in outputs.values()):
            if len(_kept) >= _MAX_KEPT:
                _kept.clear()
            _kept[key] = known
    head, size_bytes = known
    return Answer(head, [_contiguous(array) for array in outputs.values()], size_bytes)


def _find(outputs: Mapping[str, Array], name: str) -> Array:
    if name not in outputs:
        raise UsageError(f"the model has no output {name!r}; it has {', '.join(outputs)}")
    return outputs[name]


def _contiguous(array: Array) -> Array:
    """Return the array with its elements as they go over the wire."""
    if array.dtype is BYTES:
        return encode(array)
    return np.ascontiguousarray(array)


def _to_list(name: str, array: Array) -> list[Any]:
    if array.dtype == np.float16:
        raise ShapeError(f"output {name!r} is FP16, which has no JSON form: ask for it as binary data")
    if array.dtype is BYTES:
        return to_strings(name, array)
    flat: list[Any] = array.ravel().tolist()
    return flat
