"""The precision of a model's file: what it is computed in by an engine that computes it as it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ascend_parallel.errors import UsageError
from ascend_parallel.model_manifest import read_manifest

__all__ = ["find_precision", "read_precision"]

#: ONNX's numbers of element types. Source: TensorProto.DataType.
_FLOATS = {1: "fp32", 10: "fp16", 16: "bf16"}
#: Operators of quantized models, beside those that begin with QLinear.
_QUANTIZED = frozenset({"ConvInteger", "DequantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger"})


def read_precision(path: str) -> str:
    """Return the precision of a model's file: "fp32", "fp16", "bf16" or "int8"; "" if it cannot be told.

    Of a MINDIR file, its manifest tells the precision. ONNX files are read without weights in external files.

    Raises:
        UsageError: if an ONNX file or a manifest is not readable.
    """
    if path.endswith(".mindir"):
        manifest = read_manifest(Path(path))
        if manifest is None:
            return ""
        # The default of the converter for Ascend is fp16, and CPU kernels compute in fp32.
        return manifest.precision or ("fp16" if manifest.target == "ascend" else "fp32")
    if not path.endswith(".onnx"):
        return ""
    import onnx

    try:
        return find_precision(onnx.load(path, load_external_data=False))
    except Exception as error:  # protobuf's errors have no common base class
        raise UsageError(f"{path} is not an ONNX file: {error}") from None


def find_precision(model: Any) -> str:
    """Return the precision of an ``onnx.ModelProto``; "" if it has no floating point numbers.

    It is "int8" with quantized operators; else that of most of the weights; without weights, that of the inputs and
    outputs.
    """
    graph = model.graph
    if any(node.op_type in _QUANTIZED or node.op_type.startswith("QLinear") for node in graph.node):
        return "int8"
    counts: Counter[str] = Counter()
    for tensor in _weights(graph):
        counts[_FLOATS.get(tensor.data_type, "")] += math.prod(tensor.dims)
    for value in [*graph.input, *graph.output]:
        counts[_FLOATS.get(value.type.tensor_type.elem_type, "")] += 0
    del counts[""]
    return max(counts, key=lambda name: counts[name], default="")


def _weights(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":  # where some exporters write weights
            yield from (attribute.t for attribute in node.attribute if attribute.name == "value")
