"""Finds and checks a folder of Stable Diffusion models in the layout of diffusers' and optimum's export.

::

    DIR/text_encoder/model.onnx     or model.mindir        DIR/tokenizer/vocab.json, merges.txt
    DIR/unet/model.onnx             or model.mindir        DIR/scheduler/scheduler_config.json
    DIR/vae_decoder/model.onnx      or model.mindir        DIR/*/config.json, if it exists
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ascend_parallel.errors import UsageError

from .scheduler import DDIMScheduler
from .tokenizer import ClipTokenizer

MODELS = ("text_encoder", "unet", "vae_decoder")
#: Engine -> the suffix of its model files.
SUFFIXES = {"mslite": ".mindir", "onnxruntime": ".onnx"}
#: The suffix of external weight files: the name that export_onnx.py and optimum use.
WEIGHTS_SUFFIX = "_data"
#: Makes ONNX Runtime compute with the mapped file, which all workers share. Its default is a copy per worker, in the
#: layout that its CPU kernels prefer. Source: onnxruntime_session_options_config_keys.h.
MAP_WEIGHTS = {
    "session.disable_prepacking": "1",
    "optimization.disable_specified_optimizers": "NchwcTransformer",
}
#: The scaling factor of Stable Diffusion's autoencoders; used if there is no config.json.
#: Source: Rombach et al. 2021, https://arxiv.org/abs/2112.10752, appendix G; diffusers' AutoencoderKL.
SCALING_FACTOR = 0.18215


@dataclass(frozen=True)
class ModelFolder:
    """The files of a Stable Diffusion; all of them exist.

    Attributes:
        path: the folder.
        engine: the engine for the models: "mslite" or "onnxruntime".
        files: the name of each of MODELS -> its model file.
        settings: the name of each of MODELS -> its config.json; {} if it has none.
    """

    path: Path
    engine: str
    files: Mapping[str, Path]
    settings: Mapping[str, Mapping[str, Any]]

    def read_tokenizer(self) -> ClipTokenizer:
        """Return the tokenizer; raises UsageError."""
        try:
            return ClipTokenizer.from_folder(self.path / "tokenizer")
        except (OSError, ValueError) as error:
            raise UsageError(str(error)) from error

    def read_sampler(self) -> DDIMScheduler:
        """Return the sampler, without time steps; raises UsageError."""
        try:
            return DDIMScheduler.from_config(self.path / "scheduler" / "scheduler_config.json")
        except (OSError, ValueError) as error:
            raise UsageError(str(error)) from error

    @property
    def needs_conversion(self) -> bool:
        """Whether the models are ONNX files but the engine is MindSpore Lite."""
        return any(file.suffix != SUFFIXES[self.engine] for file in self.files.values())

    @property
    def scaling_factor(self) -> float:
        """The divisor of latents before they are decoded."""
        return float(self.settings["vae_decoder"].get("scaling_factor", SCALING_FACTOR))

    @property
    def engine_options(self) -> Mapping[str, Any]:
        """The engine's options: to map the weights if they are in files beside the ONNX files."""
        is_beside = all(file.with_name(file.name + WEIGHTS_SUFFIX).is_file() for file in self.files.values())
        return {"session_config": MAP_WEIGHTS} if self.engine == "onnxruntime" and is_beside else {}

    def with_files(self, files: Mapping[str, Path]) -> ModelFolder:
        """Return the same folder with other model files, such as converted ones."""
        return replace(self, files=files)


def find_models(path: Path, engine: str | None) -> ModelFolder:
    """Find the models of a folder, and their settings.

    Args:
        path: the folder.
        engine: "mslite" uses model.mindir or, if there is none, model.onnx (to be converted); "onnxruntime" uses
            model.onnx; None uses the existing files, and if there are both, model.mindir on a machine with an Ascend
            device.

    Raises:
        UsageError: if the folder or one of its files is missing or invalid.
    """
    if engine not in (None, *SUFFIXES):
        raise UsageError(f"the engine {engine} does not draw pictures; expected {' or '.join(SUFFIXES)}")
    if not path.is_dir():
        raise UsageError(f"the model folder {path}: there is no such folder (in {Path.cwd()})")
    _check_tokenizer_and_scheduler(path)
    chosen, suffix = _choose(path, engine)
    return ModelFolder(
        path,
        chosen,
        {name: path / name / f"model{suffix}" for name in MODELS},
        {name: _read_settings(path, name) for name in MODELS},
    )


def _check_tokenizer_and_scheduler(path: Path) -> None:
    for file in ("tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"):
        if not (path / file).is_file():
            raise UsageError(
                f"the model folder {path} has no {file}; expected the layout of diffusers' or optimum's export, with "
                f"{', '.join(MODELS)}, tokenizer and scheduler"
            )


def _choose(path: Path, engine: str | None) -> tuple[str, str]:
    """Return the engine, and the suffix of its model files."""
    missing = {suffix: _missing(path, suffix) for suffix in SUFFIXES.values()}
    mindir, onnx = (not missing[suffix] for suffix in (".mindir", ".onnx"))
    if engine is None:
        engine = "mslite" if mindir and (not onnx or _has_ascend()) else "onnxruntime"
    if engine == "mslite" and mindir:
        return engine, ".mindir"
    if onnx:
        return engine, ".onnx"
    # Name a missing file of the set that is closer to complete.
    missing_files = missing[".mindir"] if len(missing[".mindir"]) < len(missing[".onnx"]) else missing[".onnx"]
    if engine == "onnxruntime" and mindir:
        missing_files = missing[".onnx"]
    raise UsageError(
        f"the model folder {path} has no {missing_files[0]}; the engine {engine} needs one for each of "
        f"{', '.join(MODELS)}"
    )


def _missing(path: Path, suffix: str) -> list[str]:
    files = [f"{name}/model{suffix}" for name in MODELS]
    return [file for file in files if not (path / file).is_file()]


def _has_ascend() -> bool:
    from ascend_parallel.devices.discovery import discover

    return any(found.device.type == "ascend" for found in discover().devices)


def _read_settings(path: Path, name: str) -> dict[str, Any]:
    """Return a model's config.json; diffusers stores the decoder's in ``vae``, optimum in ``vae_decoder``."""
    folders = ("vae_decoder", "vae") if name == "vae_decoder" else (name,)
    for folder in folders:
        file = path / folder / "config.json"
        if file.is_file():
            return _read_object(file)
    return {}


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is not a readable JSON file: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file} does not contain a JSON object; expected a model's settings")
    return content
