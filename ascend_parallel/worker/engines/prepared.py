"""Prepared ONNX models: optimized, with external weights in the layout of the kernels, which onnxruntime maps.

Processes that load a prepared model share its pages through the page cache. They compute bit by bit the same as with
the original model: the graph is the one that onnxruntime creates while it loads the model, and is not optimized again.
onnxruntime creates prepared models itself, from version 1.21 on. A prepared model is valid only for one version of
onnxruntime and one kind of processor.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from pathlib import Path
from typing import Any, Dict

from .weights_cache import MODEL_NAME, WeightsCache, cache_root, find_files

#: Older versions of onnxruntime ignore the setting that saves the layout of the kernels.
_FIRST_VERSION = (1, 21)
#: To be increased when the preparation changes.
_FORMAT = 1
#: Smaller constants stay in the model's file: some are shapes, which onnxruntime must read while it loads the model.
_MIN_EXTERNAL_BYTES = 1 << 14
#: Disk space during the preparation, in model sizes: the external weights, and then the weights in both layouts.
_ROOM_FACTOR = 3
#: The fields of /proc/cpuinfo that identify the processor; others differ between cores or change over time.
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
    """Return the path of a model's prepared copy in this machine's cache; prepare it first if it is not there.

    Args:
        runtime: the module onnxruntime.
        model: an ONNX file.
        config: entries of the session's configuration, which may affect the prepared model.

    Raises:
        RuntimeError: if onnxruntime is too old, or the cache cannot be used; the message is one sentence.
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
            "share_weights keeps a prepared copy of %s in %s, which failed (%s); free disk space, set the variable "
            "XDG_CACHE_HOME to another folder, or leave share_weights out" % (model, root, error)
        ) from error


def _prepare(runtime: Any, model: Path, config: Config, folder: Path) -> None:
    size = sum(path.stat().st_size for path in find_files(model) if path.is_file())
    needed_mb, free_mb = _ROOM_FACTOR * size >> 20, shutil.disk_usage(str(folder)).free >> 20
    if free_mb < needed_mb:
        raise OSError("it needs up to %d MB of disk space, and %d MB are free" % (needed_mb, free_mb))
    print("preparing %s once, in %s, to share its weights" % (model, cache_root()), file=sys.stderr)
    try:
        _save_prepared(runtime, model, config, folder)
    except Exception as error:
        raise RuntimeError(
            "onnxruntime could not prepare %s to share its weights, in %s; is there a quota of less than %d MB? "
            "onnxruntime's message: %s" % (model, folder, needed_mb, error)
        ) from error


def _save_prepared(runtime: Any, model: Path, config: Config, folder: Path) -> None:
    """Save the optimized model with external weights, then the prepared one; check that the latter can be loaded."""
    optimized, prepared = folder / "optimized.onnx", folder / MODEL_NAME
    levels = runtime.GraphOptimizationLevel
    plain = {"session.disable_prepacking": "1"}
    _load(runtime, model, levels.ORT_ENABLE_ALL, {**config, **_saving(optimized), **plain}, optimized)
    layouts = {"session.save_external_prepacked_constant_initializers": "1"}
    _load(runtime, optimized, levels.ORT_DISABLE_ALL, {**config, **_saving(prepared), **layouts}, prepared)
    for path in find_files(optimized):
        if path.is_file():
            path.unlink()
    _load(runtime, prepared, levels.ORT_DISABLE_ALL, config)


def _saving(path: Path) -> Config:
    """Return the configuration entries that make a session save its model with the weights in a file beside it."""
    return {
        "session.optimized_model_external_initializers_file_name": path.stem + ".weights",
        "session.optimized_model_external_initializers_min_size_in_bytes": _MIN_EXTERNAL_BYTES,
    }


def _load(runtime: Any, model: Path, level: Any, config: Config, save_as: Any = "") -> None:
    """Load a model with an optimization level, and save the result as ``save_as`` if that is given."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(save_as)
    for key, value in config.items():
        options.add_session_config_entry(key, str(value))
    runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def describe_cpu() -> str:
    """Return an identification of this processor: the layout of the weights may depend on it."""
    fields = []
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.strip():
                break  # the other cores follow
            name, _, value = line.partition(":")
            if name.strip() in _CPU_FIELDS:
                fields.append("%s=%s" % (name.strip(), value.strip()))
    return " ".join([platform.machine()] + fields)
