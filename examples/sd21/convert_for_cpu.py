"""A folder's ONNX files -> MINDIR files for MindSpore Lite on the CPU, made once and kept.

They are kept in ``$XDG_CACHE_HOME/ascend-parallel/sd21`` (``~/.cache/ascend-parallel/sd21``), named by a hash of the
ONNX file's path and of the shapes; ``ascend_parallel.convert`` makes one anew where anything else has changed. Deleting
the folder is always safe.
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
from model_folder import MODELS, ModelFolder
from specs import find_inputs, find_sizes, static_shapes

from ascend_parallel import DiskError, TensorSpec, UsageError, convert

HASH_CHARS = 16  # 64 bits of SHA-256: enough to tell one user's files apart

Shapes = Mapping[str, Sequence[int]]


def convert_folder(folder: ModelFolder, rows: Mapping[str, int], tokens: int, python: str) -> ModelFolder:
    """Convert the three models, or find them converted; says what it does on stderr.

    Args:
        folder: with ONNX files.
        rows: model name -> rows that one device gets at a time.
        tokens: the tokenizer's number of ids.
        python: the interpreter that has mindspore_lite.

    Returns:
        The folder with MINDIR files.

    Raises:
        UsageError: mindspore_lite or onnxsim is missing, or a model is not of a kind that can be converted here.
        DiskError: the cache cannot be written to.
        ConversionError: the converter failed.
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
            devices="cpu:0",  # the shapes are those of one device's share
            output=cache / f"{name}-{_key(source, shapes[name])}.mindir",
            input_shape=";".join(f"{key}:{','.join(map(str, shape))}" for key, shape in shapes[name].items() if shape),
            batch_axes={key: _batch_axis(shape) for key, shape in shapes[name].items()},
            worker_python=python,
            show=lambda line: None,
        )
    return folder.with_files(files)


def _batch_axis(shape: Sequence[int]) -> int | None:
    """Return the axis of an input's rows; a time step that is one for all rows has none."""
    return None if tuple(shape) in ((), (1,)) else 0


def read_inputs(model: onnx.ModelProto) -> list[TensorSpec]:
    """Return the specs of an ONNX model's inputs, weights left out."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [_to_spec(value) for value in model.graph.input if value.name not in weights]


def _to_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
    return TensorSpec(value.name, str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))), shape)


def _load(file: Path) -> onnx.ModelProto:
    try:
        return onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf's own, of several kinds
        raise UsageError(f"{file} is not a readable ONNX file: {error}") from None


def _make_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = Path(base) / "ascend-parallel" / "sd21"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(
            f"{cache} cannot be made ({error.strerror}); it is to hold converted models: set XDG_CACHE_HOME"
        ) from None
    return cache


def _key(source: Path, shapes: Shapes) -> str:
    """Return a hash that tells the converted files of one user apart."""
    text = json.dumps([str(source.resolve()), shapes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARS]


def rows_of_a_device(rows: int, devices: Sequence[Any]) -> int:
    """Return the rows of the largest share."""
    return -(-rows // len(devices))
