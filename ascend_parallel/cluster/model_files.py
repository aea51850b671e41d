"""Model files that hosts do not have: sent once to each through Ray's object store, and kept there by their hash."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ascend_parallel.errors import DiskError, UsageError
from ascend_parallel.model_manifest import SUFFIX, hash_files
from ascend_parallel.worker.engines.weights_cache import cache_root, find_files

__all__ = ["ship_models", "unpack_models"]


def ship_models(models: Mapping[str, str]) -> dict[str, Any]:
    """Put the files of models into the object store.

    Returns:
        Model name -> ``{"sha256", "file", "parts"}``: the hash of all files, the model's file, and relative path ->
        (hash, reference). The references are inside a dict, so that Ray fetches an object only where a host asks.

    Raises:
        UsageError: a file is missing, or lies outside the model's folder.
    """
    import ray

    shipped = {}
    for name, path in models.items():
        parts = {}
        whole = hashlib.sha256()
        for relative, file in _files_of(Path(path)).items():
            data = np.fromfile(file, np.uint8)
            digest = hashlib.sha256(data.data).hexdigest()
            whole.update(f"{relative} {digest}\n".encode())
            parts[relative] = (digest, ray.put(data))
        shipped[name] = {"sha256": whole.hexdigest(), "file": Path(path).name, "parts": parts}
    return shipped


def _files_of(model: Path) -> dict[str, Path]:
    """Return relative path -> file: the model, its external weights, and what lies beside a MINDIR file."""
    files = [model]
    if model.suffix == ".onnx":
        files = find_files(model)
    elif model.suffix == ".mindir":
        weights = f"{model.stem.removesuffix('_graph')}_variables"  # of a model above 2 GB
        beside = [model.with_name(model.name + SUFFIX), *sorted(model.parent.glob(f"{weights}/*"))]
        files += [file for file in beside if file.is_file()]
    found = {}
    for file in files:
        if not file.is_file():
            raise UsageError(f"ship_model: the weights of {model} are not complete: there is no file {file}")
        relative = os.path.relpath(file, model.parent)
        if relative.startswith(".."):
            raise UsageError(f"ship_model: {file} lies outside the folder of {model}; put it beside the model")
        found[relative] = file
    return found


def unpack_models(shipped: Mapping[str, Any]) -> dict[str, str]:
    """Write the files that this host does not have yet; return model name -> path.

    Raises:
        DiskError: they could not be written.
        UsageError: what was written has another hash than what was sent.
    """
    return {name: str(_unpack(told)) for name, told in shipped.items()}


def _unpack(told: Mapping[str, Any]) -> Path:
    folder = cache_root("models", "ship_model") / told["sha256"]
    try:
        for relative, (digest, reference) in told["parts"].items():
            file = folder / relative
            if not file.is_file() or hash_files([file]) != digest:
                _fetch(file, reference)
                if hash_files([file]) != digest:
                    raise UsageError(f"{file} was sent, but what was written has another hash: is the disk sound?")
    except OSError as error:
        if isinstance(error, DiskError):
            raise
        raise DiskError(f"the model could not be kept in {folder}: {error.strerror or error}") from error
    model: Path = folder / told["file"]
    return model


def _fetch(file: Path, reference: Any) -> None:
    """Write a file atomically: another actor of this host may do the same."""
    import ray

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as target:
        try:
            target.write(memoryview(ray.get(reference)))
            target.flush()
            Path(target.name).replace(file)
        except BaseException:
            Path(target.name).unlink()
            raise
