"""A prepared ONNX model: optimized, its weights in files that onnxruntime maps, already in the layout of its kernels.

Processes that load it share its pages, through the system's page cache, and compute bit by bit what they compute with
the model itself: its graph is what onnxruntime makes of the model while loading it, and is not optimized again.
It is made by onnxruntime alone, which can do this from 1.21 on. It is right for one version of onnxruntime and
one kind of processor only.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from pathlib import Path
from typing import Any, Dict

from .weights_cache import MODEL_NAME, WeightsCache, cache_root, find_files

#: Before it, onnxruntime ignores what asks it to save the layout of its kernels.
_FIRST_VERSION = (1, 21)
#: Counted up when models are prepared in another way.
_FORMAT = 1
#: Smaller constants stay in the model's own file: some are shapes, which onnxruntime must read while loading it.
_MIN_EXTERNAL_BYTES = 1 << 14
#: The files of a model take so many times its size while they are made: the weights apart, and then in both layouts.
_ROOM_FACTOR = 3
#: What of /proc/cpuinfo tells processors apart; the rest changes from core to core, or from second to second.
_CPU_FIELDS = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags"} | {
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "CPU revision",
    "Features",
}

Config = Dict[str, Any]


def fetch_prepared(runtime: Any, model: Path, config: Config) -> Path:
    """Return the path of a model's prepared copy in the cache of this machine, made now where it is not there.

    Args:
        runtime: the module onnxruntime.
        model: an ONNX file.
        config: entries of the session's configuration, which may change what is made of the model.

    Raises:
        RuntimeError: onnxruntime is too old, or the cache cannot be used; in a sentence.
    """
    version = runtime.__version__
    if tuple(int(word) for word in version.split(".")[:2]) < _FIRST_VERSION:
        raise RuntimeError(
            "share_weights needs onnxruntime %d.%d or newer; %s has %s: update it, or leave share_weights out"
            % (_FIRST_VERSION + (sys.executable, version))
        )
    root = cache_root()
    variant = json.dumps([_FORMAT, version, runtime.get_build_info(), describe_cpu(), config], sort_keys=True)
    try:
        return WeightsCache(root).fetch(model, variant, lambda folder: _prepare(runtime, model, config, folder))
    except OSError as error:
        raise RuntimeError(
            "share_weights keeps a prepared copy of %s in %s, which failed (%s); make room there, name another "
            "folder with the variable XDG_CACHE_HOME, or leave share_weights out" % (model, root, error)
        ) from error


def _prepare(runtime: Any, model: Path, config: Config, folder: Path) -> None:
    size = sum(path.stat().st_size for path in find_files(model) if path.is_file())
    needed_mb, free_mb = _ROOM_FACTOR * size >> 20, shutil.disk_usage(str(folder)).free >> 20
    if free_mb < needed_mb:
        raise OSError("it takes up to %d MB of disk, and %d are free" % (needed_mb, free_mb))
    print("preparing %s once, in %s, to share its weights" % (model, cache_root()), file=sys.stderr)
    try:
        _save_prepared(runtime, model, config, folder)
    except Exception as error:
        raise RuntimeError(
            "onnxruntime could not prepare %s, to share its weights, in %s; is there a quota of less than %d MB? It "
            "says: %s" % (model, folder, needed_mb, error)
        ) from error


def _save_prepared(runtime: Any, model: Path, config: Config, folder: Path) -> None:
    """Save the optimized model with its weights apart, from that the prepared one, and see whether it can be loaded."""
    apart, prepared = folder / "apart.onnx", folder / MODEL_NAME
    levels = runtime.GraphOptimizationLevel
    plain = {"session.disable_prepacking": "1"}
    _load(runtime, model, levels.ORT_ENABLE_ALL, {**config, **_saving(apart), **plain}, apart)
    layouts = {"session.save_external_prepacked_constant_initializers": "1"}
    _load(runtime, apart, levels.ORT_DISABLE_ALL, {**config, **_saving(prepared), **layouts}, prepared)
    for path in find_files(apart):
        if path.is_file():
            path.unlink()
    _load(runtime, prepared, levels.ORT_DISABLE_ALL, config)


def _saving(path: Path) -> Config:
    """Return the entries with which a session saves its model, the weights in a file beside it."""
    return {
        "session.optimized_model_external_initializers_file_name": path.stem + ".weights",
        "session.optimized_model_external_initializers_min_size_in_bytes": _MIN_EXTERNAL_BYTES,
    }


def _load(runtime: Any, model: Path, level: Any, config: Config, save_as: Any = "") -> None:
    """Load a model, optimized up to a level, and forget it; save what onnxruntime made of it, where that is wanted."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(save_as)
    for key, value in config.items():
        options.add_session_config_entry(key, str(value))
    runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def describe_cpu() -> str:
    """Return what tells this processor from others, for which weights may be laid out in another way."""
    fields = []
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.strip():
                break  # the other cores are described below
            name, _, value = line.partition(":")
            if name.strip() in _CPU_FIELDS:
                fields.append("%s=%s" % (name.strip(), value.strip()))
    return " ".join([platform.machine()] + fields)
