"""Reads an ONNX file's inputs, outputs, opset and operators; weights in external files are not loaded."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ascend_parallel.checks import check_file
from ascend_parallel.errors import UsageError
from ascend_parallel.model_manifest import hash_files
from ascend_parallel.model_precision import find_precision
from ascend_parallel.worker.engines import HEAD_BYTES, TensorSpec
from ascend_parallel.worker.engines.onnxruntime import OnnxRuntimeEngine

#: The two names of the domain of ONNX's own operators.
_ONNX_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxFile:
    """The description of an ONNX file.

    Attributes:
        path: the path, as the user gave it.
        inputs: the specs of the inputs, without the weights.
        outputs: the specs of the outputs.
        opset: the opset of ONNX's own operators; 0 if the model has none.
        weight_files: the external weight files.
        operators: the operator types of its nodes.
        precision: "fp32", "fp16", "bf16" or "int8"; "" if it has no floating point numbers.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    weight_files: tuple[Path, ...]
    operators: frozenset[str]
    precision: str = ""

    @property
    def size_bytes(self) -> int:
        """The size of the file and its external weight files."""
        return sum(file.stat().st_size for file in (self.path, *self.weight_files))

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of the file followed by its external weight files."""
        return hash_files([self.path, *self.weight_files])

    def load(self, *, weights: bool) -> Any:
        """Return the ``onnx.ModelProto``, with or without the weights in external files."""
        import onnx

        return onnx.load(str(self.path), load_external_data=weights)


def read_onnx(path: Path) -> OnnxFile:
    """Read an ONNX file without its external weights.

    Raises:
        UsageError: if the file does not exist, is not an ONNX file, or one of its weight files is missing.
    """
    import onnx

    check_file("model file", path)
    try:
        with path.open("rb") as file:
            reason = OnnxRuntimeEngine.why_wrong_kind(file.read(HEAD_BYTES))
        if reason:
            raise UsageError(f"{path} {reason}")
        model = onnx.load(str(path), load_external_data=False)
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # protobuf's errors have no common base class
        raise UsageError(f"{path} is not an ONNX file: {error}") from None
    graph = model.graph
    if not graph.output:
        raise UsageError(f"{path} is not an ONNX file, or it is incomplete: it has no outputs")
    weights = {tensor.name for tensor in graph.initializer}
    return OnnxFile(
        path,
        tuple(_spec(path, value) for value in graph.input if value.name not in weights),
        tuple(_spec(path, value) for value in graph.output),
        max((item.version for item in model.opset_import if item.domain in _ONNX_DOMAINS), default=0),
        _find_weight_files(path, graph),
        frozenset(node.op_type for node in graph.node),
        find_precision(model),
    )


def _spec(path: Path, value: Any) -> TensorSpec:
    import onnx

    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value")
        raise UsageError(f"{value.name!r} of {path} is a {kind}, not a tensor; only models of tensors are supported")
    tensor = value.type.tensor_type
    # Some exporters write -1 or 0 for an open axis.
    shape = tuple(dim.dim_value if dim.dim_value > 0 else dim.dim_param or None for dim in tensor.shape.dim)
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape)


def _find_weight_files(path: Path, graph: Any) -> tuple[Path, ...]:
    """Return the external weight files, in the order in which the graph first refers to them."""
    names: dict[str, None] = {}
    for tensor in graph.initializer:
        names.update((entry.value, None) for entry in tensor.external_data if entry.key == "location")
    files = tuple(path.parent / name for name in names)
    for file in files:
        if not file.is_file():
            raise UsageError(f"{path} has its weights in {file}, which does not exist: keep the two files together")
    return files
