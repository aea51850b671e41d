"""A folder's ONNX files -> MINDIR files for MindSpore Lite on the CPU, made once and kept.

They are kept in ``$XDG_CACHE_HOME/ascend-parallel/sd21`` (``~/.cache/ascend-parallel/sd21``), named by a hash of all
that they are made from: the ONNX file, the shapes, MindSpore Lite's version and these programs. Deleting the folder is
always safe.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from digestible import make_digestible
from model_folder import MODELS, ModelFolder
from onnx.external_data_helper import load_external_data_for_model
from specs import find_inputs, find_sizes, static_shapes

from ascend_parallel import AscendParallelError, DiskError, TensorSpec, UsageError

CONVERTER = Path(__file__).resolve().with_name("mslite_converter.py")
RECIPE = (CONVERTER, CONVERTER.with_name("digestible.py"))
VERSION_TIMEOUT_S = 60.0  # an import takes a second, from a cold network disk many
CONVERT_TIMEOUT_S = 1800.0
HASH_CHARS = 16  # 64 bits of SHA-256: enough to tell one user's files apart
SHOWN_LINES = 4  # of what a failed converter printed

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
        AscendParallelError: the converter failed.
    """
    version = find_version(python)
    models = {name: _load(folder.files[name]) for name in MODELS}
    inputs = find_inputs({name: read_inputs(model) for name, model in models.items()})
    shapes = static_shapes(inputs, find_sizes(inputs, folder.settings, tokens), rows)
    cache = _make_cache()
    files = {}
    for name, model in models.items():
        file = cache / f"{name}-{_key(folder.files[name], shapes[name], version)}.mindir"
        if not file.is_file():
            told = ", ".join(f"{key} {shape}" for key, shape in shapes[name].items())
            print(f"converting {name} ({told}) for MindSpore Lite {version}, once: {file}", file=sys.stderr)
            convert(model, folder.files[name], shapes[name], file, python)
        files[name] = file
    return folder.with_files(files)


def find_version(python: str) -> str:
    """Return the version of mindspore_lite; raises UsageError where an interpreter does not have it."""
    found = shutil.which(python)
    if found is None:
        raise UsageError(f"--worker-python {python} is no executable; expected a Python interpreter")
    done = _run([found, str(CONVERTER), "--version"], VERSION_TIMEOUT_S)
    if done.returncode:
        raise UsageError(
            f"mindspore_lite cannot be imported by {found} ({_last_lines(done.stdout, 1)}); install its wheel there, "
            "or name the interpreter that has it with --worker-python"
        )
    return done.stdout.strip().splitlines()[-1]


def read_inputs(model: onnx.ModelProto) -> list[TensorSpec]:
    """Return the specs of an ONNX model's inputs, weights left out."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [_to_spec(value) for value in model.graph.input if value.name not in weights]


def _to_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
    return TensorSpec(value.name, str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))), shape)


def convert(model: onnx.ModelProto, source: Path, shapes: Shapes, file: Path, python: str) -> None:
    """Convert one model; the file gets its name when it is whole, so that an interrupted run leaves no half one.

    Args:
        model: the ONNX model; it is changed.
        source: where it came from.
        shapes: input name -> shape.
        file: the .mindir file to be.
        python: the interpreter that has mindspore_lite.

    Raises:
        AscendParallelError: it did not work; the converter's last lines are in the message.
    """
    load_external_data_for_model(model, str(source.parent))
    try:
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".converting-") as work:
            onnx.save(make_digestible(model, shapes), Path(work) / "model.onnx")
            made = Path(work) / "converted"
            command = [python, str(CONVERTER), str(Path(work) / "model.onnx"), str(made), json.dumps(shapes)]
            done = _run(command, CONVERT_TIMEOUT_S)
            if done.returncode:
                raise AscendParallelError(
                    f"MindSpore Lite could not convert {source}: {_last_lines(done.stdout, SHOWN_LINES)}"
                )
            made.with_suffix(".mindir").replace(file)
    except OSError as error:
        raise DiskError(f"{file} could not be written: {error.strerror or error}") from error


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, stdout and stderr as one; it is killed with this process's exceptions."""
    try:
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise AscendParallelError(f"{' '.join(command[:3])} took longer than {timeout_s:g} s and was killed") from None
    except OSError as error:
        raise UsageError(f"{command[0]} cannot be run: {error.strerror}") from None


def _last_lines(text: str, count: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:]) or "it printed nothing"


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


def _key(source: Path, shapes: Shapes, version: str) -> str:
    """Return a hash of all that a converted file is made from."""
    digest = hashlib.sha256(json.dumps([shapes, version], sort_keys=True).encode())
    # model.onnx, and the files that hold its weights where it is too large for one
    for file in (*RECIPE, *sorted(source.parent.glob(f"{source.name}*"))):
        with file.open("rb") as opened:
            while part := opened.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()[:HASH_CHARS]


def rows_of_a_device(rows: int, devices: Sequence[Any]) -> int:
    """Return the rows of the largest share."""
    return -(-rows // len(devices))
