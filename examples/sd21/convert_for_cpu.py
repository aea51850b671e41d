"""Converts a folder's ONNX files to MINDIR files for MindSpore Lite on the CPU, and keeps them in a cache.

The cache is ``$XDG_CACHE_HOME/ascend-parallel/sd21`` (``~/.cache/ascend-parallel/sd21``). The name of a file contains a
hash of the ONNX file's path and of the shapes. If anything else has changed, ``ascend_parallel.convert`` converts the
file again. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ascend_parallel import DiskError, TensorSpec, UsageError, convert
from ascend_parallel.diffusion.model_folder import MODELS, ModelFolder
from ascend_parallel.diffusion.specs import find_inputs, find_sizes, static_shapes

HASH_CHARS = 16  # 64 bits of SHA-256: sufficient to distinguish the files of one user

Shapes = Mapping[str, Sequence[int]]


def convert_folder(folder: ModelFolder, rows: Mapping[str, int], tokens: int, python: str) -> ModelFolder:
    """Convert the three models, or find their converted files; progress is printed to stderr.

    Args:
        folder: a folder with ONNX files.
        rows: model name -> rows per device.
        tokens: the tokenizer's number of ids.
        python: the interpreter that has mindspore_lite.

    Returns:
        The folder with MINDIR files.

    Raises:
        UsageError: if mindspore_lite or onnxsim is missing, or a model is of another kind.
        DiskError: if the cache is not writable.
        ConversionError: if the converter failed.
    """
    models = {name: _load(folder.files[name]) for name in MODELS}
    inputs = find_inputs({name: read_inputs(model) for name, model in models.items()})
    shapes = static_shapes(inputs, find_sizes(inputs, folder.settings, tokens), rows)
    cache = _make_cache()
    files = {}
    for name in MODELS:
        source = folder.files[name]
        (files[name],) = convert(
            source,
            devices="cpu:0",  # the shapes are already those of one device
            output=cache / f"{name}-{_key(source, shapes[name])}.mindir",
            input_shape=";".join(f"{key}:{','.join(map(str, shape))}" for key, shape in shapes[name].items() if shape),
            batch_axes={key: _batch_axis(shape) for key, shape in shapes[name].items()},
            worker_python=python,
            show=lambda line: None,
        )
    return folder.with_files(files)


def _batch_axis(shape: Sequence[int]) -> int | None:
    """Return the batch axis of an input; None for a single time step for all rows."""
    return None if tuple(shape) in ((), (1,)) else 0


def read_inputs(model: onnx.ModelProto) -> list[TensorSpec]:
    """Return the specs of an ONNX model's inputs, without the weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [_to_spec(value) for value in model.graph.input if value.name not in weights]


def _to_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
    return TensorSpec(value.name, str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))), shape)


def _load(file: Path) -> onnx.ModelProto:
    try:
        return onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf raises several classes
        raise UsageError(f"{file} is not a readable ONNX file: {error}") from None


def _make_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = Path(base) / "ascend-parallel" / "sd21"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(
            f"{cache} cannot be created ({error.strerror}); it is the folder for converted models: set XDG_CACHE_HOME"
        ) from None
    return cache


def _key(source: Path, shapes: Shapes) -> str:
    """Return a hash that distinguishes the converted files of one user."""
    text = json.dumps([str(source.resolve()), shapes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARS]


def rows_per_device(rows: int, devices: Sequence[Any]) -> int:
    """Return the largest number of rows of one device."""
    return -(-rows // len(devices))
