"""A folder of Stable Diffusion models, laid out as diffusers and optimum export it: found and checked.

::

    DIR/text_encoder/model.onnx     or model.mindir        DIR/tokenizer/vocab.json, merges.txt
    DIR/unet/model.onnx             or model.mindir        DIR/scheduler/scheduler_config.json
    DIR/vae_decoder/model.onnx      or model.mindir        DIR/*/config.json, where there is one
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ascend_parallel import UsageError

TINY = Path(__file__).resolve().parent / "tiny"
MODELS = ("text_encoder", "unet", "vae_decoder")
#: Engine -> the suffix of its models.
SUFFIXES = {"mslite": ".mindir", "onnxruntime": ".onnx"}
#: What ONNX files have their weights in, where these lie beside them: export_onnx.py's and optimum's name.
WEIGHTS_SUFFIX = "_data"
#: Has ONNX Runtime compute on the mapped file, which all workers share: else each makes a copy of its own, in the order
#: of numbers that its CPU kernels like best.
#: Source: onnxruntime_session_options_config_keys.h.
MAP_WEIGHTS = {
    "session.disable_prepacking": "1",
    "optimization.disable_specified_optimizers": "NchwcTransformer",
}
#: What Stable Diffusion's autoencoders were trained with; taken where no config.json says otherwise.
#: Source: Rombach et al. 2021, https://arxiv.org/abs/2112.10752, appendix G; diffusers' AutoencoderKL.
SCALING_FACTOR = 0.18215


@dataclass(frozen=True)
class ModelFolder:
    """The files of one Stable Diffusion, all there.

    Attributes:
        path: the folder.
        engine: what runs its models: "mslite" or "onnxruntime".
        files: the name of each of MODELS -> its file.
        settings: the name of each of MODELS -> its config.json, {} where there is none.
    """

    path: Path
    engine: str
    files: Mapping[str, Path]
    settings: Mapping[str, Mapping[str, Any]]

    @property
    def is_tiny(self) -> bool:
        """Whether this is the model that comes with the example."""
        return self.path.resolve() == TINY

    @property
    def needs_conversion(self) -> bool:
        """Whether the models are ONNX files, to be run by MindSpore Lite."""
        return any(file.suffix != SUFFIXES[self.engine] for file in self.files.values())

    @property
    def scaling_factor(self) -> float:
        """What latents are divided by before they are decoded."""
        return float(self.settings["vae_decoder"].get("scaling_factor", SCALING_FACTOR))

    @property
    def engine_options(self) -> Mapping[str, Any]:
        """What the runner is to tell the engine: that it maps weights which lie beside an ONNX file."""
        is_beside = all(file.with_name(file.name + WEIGHTS_SUFFIX).is_file() for file in self.files.values())
        return {"session_config": MAP_WEIGHTS} if self.engine == "onnxruntime" and is_beside else {}

    def with_files(self, files: Mapping[str, Path]) -> ModelFolder:
        """Return the same with other model files: converted ones."""
        return replace(self, files=files)


def find_models(path: Path, engine: str | None) -> ModelFolder:
    """Find a folder's models, and what is beside them.

    Args:
        path: the folder.
        engine: "mslite" takes model.mindir and, where there is none, model.onnx to be converted; "onnxruntime" takes
            model.onnx; None takes what is there, and of both the model.mindir where the machine has an Ascend device.

    Raises:
        UsageError: the folder, or a file in it, is missing or is not what its name says.
    """
    if engine not in (None, *SUFFIXES):
        raise UsageError(f"--engine {engine} does not draw pictures; expected {' or '.join(SUFFIXES)}")
    if not path.is_dir():
        raise UsageError(f"--models {path}: there is no such folder (in {Path.cwd()})")
    _check_beside(path)
    chosen, suffix = _choose(path, engine)
    return ModelFolder(
        path,
        chosen,
        {name: path / name / f"model{suffix}" for name in MODELS},
        {name: _read_settings(path, name) for name in MODELS},
    )


def _check_beside(path: Path) -> None:
    for file in ("tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"):
        if not (path / file).is_file():
            raise UsageError(
                f"--models {path} has no {file}; expected a folder as diffusers or optimum export it, with "
                f"{', '.join(MODELS)}, tokenizer and scheduler"
            )


def _choose(path: Path, engine: str | None) -> tuple[str, str]:
    """Return the engine, and the suffix of the files that it gets."""
    missing = {suffix: _missing(path, suffix) for suffix in SUFFIXES.values()}
    mindir, onnx = (not missing[suffix] for suffix in (".mindir", ".onnx"))
    if engine is None:
        engine = "mslite" if mindir and (not onnx or _has_ascend()) else "onnxruntime"
    if engine == "mslite" and mindir:
        return engine, ".mindir"
    if onnx:
        return engine, ".onnx"
    # Name the file that is missing of the set that is nearer to being whole.
    told = missing[".mindir"] if len(missing[".mindir"]) < len(missing[".onnx"]) else missing[".onnx"]
    if engine == "onnxruntime" and mindir:
        told = missing[".onnx"]
    raise UsageError(f"--models {path} has no {told[0]}; the engine {engine} needs one for each of {', '.join(MODELS)}")


def _missing(path: Path, suffix: str) -> list[str]:
    files = [f"{name}/model{suffix}" for name in MODELS]
    return [file for file in files if not (path / file).is_file()]


def _has_ascend() -> bool:
    from ascend_parallel import discover

    return any(found.device.type == "ascend" for found in discover().devices)


def _read_settings(path: Path, name: str) -> dict[str, Any]:
    """Return a model's config.json; diffusers keeps the decoder's in a folder ``vae``, optimum in ``vae_decoder``."""
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
        raise UsageError(f"{file} holds no JSON object; expected a model's settings")
    return content
