"""The model and the devices of an op, from its ``local_service_conf``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from .paddle_source import PaddleConfig

#: What a folder with a model of Paddle's has, by the names of several years: (the model, its weights).
_PADDLE_FILES = (
    ("inference.json", "inference.pdiparams"),
    ("inference.pdmodel", "inference.pdiparams"),
    ("__model__", "__params__"),
    ("model.pdmodel", "model.pdiparams"),
)
_NAMES_FILE = "serving_server_conf.prototxt"
_VARIABLE = re.compile(r"(?:feed|fetch)_var\s*\{([^}]*)\}")
_FIELD = re.compile(r'(alias_name|name)\s*:\s*"([^"]*)"')
#: device_type -> the type here; 3 to 6 have words of their own.
_TYPES = {0: "cpu", 1: "gpu", 2: "tensorrt", 3: "cpu", 5: "ascend", 6: "ascend"}
_XPU = 4
_PRECISIONS = ("fp32", "fp16", "int8", "bf16")

Settings = dict[str, Any]


def read_model(config: PaddleConfig, op: str) -> Settings:
    """Return the settings of an op's model: path, devices and the like; none where it has no model."""
    path = ("op", op, "local_service_conf")
    folder = config.get((*path, "model_config"))
    if folder is None:
        return {}
    found: Settings = {"path": _find_model(config, op, str(folder))}
    rename = _read_names(Path(config.folder, str(folder), _NAMES_FILE))
    if rename:
        found["rename"] = rename
    devices = _read_devices(config, path)
    if devices:
        found["devices"] = devices
    threads = config.get((*path, "thread_num"))
    if threads is not None:
        found["engine_options"] = {"threads": threads}
    return found | _read_precision(config, path, devices)


def _find_model(config: PaddleConfig, op: str, folder: str) -> str:
    """Return the ONNX file of a folder, relative to the configuration's; tell how to make it where there is none."""
    where = Path(config.folder, folder)
    path = ("op", op, "local_service_conf", "model_config")
    there = sorted(file.name for file in where.glob("*.onnx"))
    if len(there) == 1:
        return os.path.join(folder, there[0])
    target = os.path.join(folder, "model.onnx")
    if there:
        config.note(path, f"names a folder with {', '.join(there)}; path has the first of them: choose")
        return os.path.join(folder, there[0])
    for model, weights in _PADDLE_FILES:
        if (where / model).exists():
            config.note(
                path, f"names a model of Paddle's; make an ONNX file of it by {_to_onnx(where, model, weights)}"
            )
            return target
    what = "has no model that is known" if where.is_dir() else "is not there"
    model, weights = _PADDLE_FILES[1]
    config.note(path, f"is {folder}, which {what}; put an ONNX file there, made by {_to_onnx(where, model, weights)}")
    return target


def _to_onnx(folder: Path, model: str, weights: str) -> str:
    return (
        f"paddle2onnx --model_dir {folder} --model_filename {model} --params_filename {weights} "
        f"--save_file {folder / 'model.onnx'}"
    )


def _read_names(file: Path) -> dict[str, str]:
    """Return what the ops call inputs and outputs -> what the model calls them, where the two differ."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError):
        return {}
    found = {}
    for block in _VARIABLE.findall(text):
        fields = dict(_FIELD.findall(block))
        alias, name = fields.get("alias_name", ""), fields.get("name", "")
        if alias and name and alias != name:
            found[alias] = name
    return found


def _read_devices(config: PaddleConfig, path: tuple[str, ...]) -> str:
    """Return the devices, "" where there is no counterpart."""
    kind = config.get((*path, "device_type"), -1)
    numbers = str(config.get((*path, "devices"), "")).replace(" ", "")
    if kind == -1:
        return f"gpu:{numbers}" if numbers else "cpu:0"
    if kind == _XPU:
        config.note(
            (*path, "device_type"),
            "is 4, a Kunlun XPU, for which there is no engine: choose from what ascend-parallel devices shows",
        )
        return ""
    if kind not in _TYPES:
        config.note((*path, "device_type"), f"is {kind!r}; expected 0 to 6. Choose devices")
        return ""
    name = _TYPES[kind]
    if name == "cpu":
        return "cpu:0"
    if name == "ascend":
        config.note(
            (*path, "device_type"),
            f"is {kind}, Ascend {'310' if kind == 5 else '910'}: ascend-parallel convert makes an OM file of the ONNX "
            "file (--to om) or a MINDIR file; name that in path, or keep the ONNX file for onnxruntime-cann",
        )
    return f"{name}:{numbers or 0}"


def _read_precision(config: PaddleConfig, path: tuple[str, ...], devices: str) -> Settings:
    """Return the precision where the device's own provider computes in it; else tell how to have it."""
    word = str(config.get((*path, "precision"), "fp32")).lower()
    if word == "fp32":
        return {}
    if word not in _PRECISIONS:
        config.note((*path, "precision"), f"is {word!r}; expected fp32, fp16, int8 or bf16. It is left out")
        return {}
    if devices.startswith("tensorrt") and word == "fp16":
        return {"precision": word}
    what = f"--to onnx --precision {word}" if word in ("fp16", "int8") else ""
    how = f"make such a model by ascend-parallel convert MODEL.onnx {what}" if what else "no engine has it here"
    config.note((*path, "precision"), f"is {word}, and is left out: {how}; see docs/precision.md")
    return {}
