"""The sources of the networks to export: a checkpoint saved by diffusers, or random weights."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commands import TINY

from ascend_parallel import UsageError
from ascend_parallel.diffusion.model_folder import MODELS

PIPELINE = "StableDiffusionPipeline"
#: Files that a checkpoint must have; they are copied to the export.
SETTINGS = ("text_encoder/config.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
TOKENIZER = ("tokenizer/vocab.json", "tokenizer/merges.txt")
TOKENIZER_SETTINGS = ("tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json")
#: Model -> the folder and the possible names of its weights in a checkpoint.
WEIGHTS = {
    "text_encoder": ("text_encoder", ("model", "pytorch_model")),
    "unet": ("unet", ("diffusion_pytorch_model",)),
    "vae_decoder": ("vae", ("diffusion_pytorch_model",)),
}
WEIGHT_SUFFIXES = (".safetensors", ".bin")
HALF_PRECISION = "fp16"  # the variant that is the only one in some checkpoints


class Source(ABC):
    """Provides the three networks, one at a time, with their settings and tokenizer."""

    @abstractmethod
    def load(self, name: str) -> Any:
        """Return one of MODELS in float32 and evaluation mode: a CLIPTextModel, UNet2DConditionModel, AutoencoderKL."""

    @abstractmethod
    def skeleton(self, name: str) -> Any:
        """Return the same network without memory for its weights, for counting them."""

    @abstractmethod
    def write_settings_and_tokenizer(self, folder: Path) -> None:
        """Write the settings and the tokenizer to the folders that main.py reads."""

    def count_parameters(self) -> int:
        """Return the number of parameters of the three ONNX models."""
        models = {name: self.skeleton(name) for name in MODELS}
        vae = models.pop("vae_decoder")
        parts = [*models.values(), vae.decoder, vae.post_quant_conv]
        return sum(parameter.numel() for module in parts if module is not None for parameter in module.parameters())


class Checkpoint(Source):
    """A folder written by ``StableDiffusionPipeline.save_pretrained``, or a download of one."""

    def __init__(self, path: Path) -> None:
        """Check that the files exist; no weights are read.

        Raises:
            UsageError: if the folder is not a Stable Diffusion 1 or 2 saved by diffusers.
        """
        self._path = path
        if not path.is_dir():
            raise UsageError(f"{path}: there is no such folder (in {Path.cwd()}); expected a checkpoint for diffusers")
        index = self._read("model_index.json")
        if index.get("_class_name") != PIPELINE:
            raise UsageError(f"{path} is for diffusers' {index.get('_class_name')}; expected one for {PIPELINE}")
        missing = [file for file in (*SETTINGS, *TOKENIZER) if not (path / file).is_file()]
        if missing:
            raise UsageError(f"{path} has no {missing[0]}; expected all files that diffusers' {PIPELINE} saves")
        for file in SETTINGS:
            self._read(file)
        self._variants = {name: self._find_variant(name) for name in MODELS}

    def load(self, name: str) -> Any:
        """Read the weights of one model; a half-precision variant is converted to float32."""
        import torch

        options: dict[str, Any] = {"variant": self._variants[name], "local_files_only": True}
        if name == "text_encoder":
            options["attn_implementation"] = "eager"  # exports to plain matrix products
        folder = self._path / WEIGHTS[name][0]
        try:
            model = _classes()[name].from_pretrained(folder, **options)
        except Exception as error:  # several libraries raise their own classes
            raise UsageError(f"the weights in {folder} could not be read: {error}") from error
        return (model if model.dtype == torch.float32 else model.float()).eval()

    def skeleton(self, name: str) -> Any:
        """Build one model from its settings only."""
        import torch

        folder = self._path / WEIGHTS[name][0]
        with torch.device("meta"):
            if name == "text_encoder":
                from transformers import CLIPTextConfig

                return _classes()[name](CLIPTextConfig.from_pretrained(folder))
            return _classes()[name].from_config(self._read(f"{folder.name}/config.json"))

    def write_settings_and_tokenizer(self, folder: Path) -> None:
        """Copy the settings and the tokenizer; the autoencoder's settings go to ``vae_decoder``."""
        for file in ("model_index.json", *SETTINGS, *TOKENIZER, *TOKENIZER_SETTINGS):
            if (self._path / file).is_file():
                target = folder / file.replace("vae/", "vae_decoder/")
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(self._path / file, target)

    def _find_variant(self, name: str) -> str | None:
        """Return "fp16" if the folder has weights of that variant only, else None."""
        folder, stems = WEIGHTS[name]
        for variant in (None, HALF_PRECISION):
            middle = f".{variant}" if variant else ""
            names = [f"{stem}{middle}{suffix}" for stem in stems for suffix in WEIGHT_SUFFIXES]
            # Weights in several files have an index instead of the single file.
            names += [f"{name}.index{'.' + variant if variant else ''}.json" for name in names]
            if any((self._path / folder / name).is_file() for name in names):
                return variant
        raise UsageError(
            f"{self._path / folder} has no weights; expected {stems[0]}.safetensors or {stems[-1]}.bin there"
        )

    def _read(self, file: str) -> dict[str, Any]:
        try:
            content = json.loads((self._path / file).read_text("utf-8"))
        except FileNotFoundError:
            raise UsageError(
                f"{self._path} has no {file}; expected a folder that diffusers' {PIPELINE} saved"
            ) from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{self._path / file} is not a readable JSON file: {error}") from None
        if not isinstance(content, dict):
            raise UsageError(f"{self._path / file} does not contain a JSON object; expected settings")
        return content


class RandomSD21(Source):
    """Stable Diffusion 2.1's networks at their real size, with random weights, and the tiny model's tokenizer."""

    def load(self, name: str) -> Any:
        """Create one network, always with the same weights."""
        import torch
        from random_sd21 import MAKERS

        with torch.random.fork_rng():
            torch.manual_seed(MODELS.index(name))
            return MAKERS[name]().eval()

    def skeleton(self, name: str) -> Any:
        """Create one network without memory for its weights."""
        import torch
        from random_sd21 import MAKERS

        with torch.device("meta"):
            return MAKERS[name]()

    def write_settings_and_tokenizer(self, folder: Path) -> None:
        """Write the settings of 2.1, and the tiny tokenizer: its 587 ids are valid for the text encoder's 49408."""
        from random_sd21 import SCHEDULER

        for name in MODELS:
            model = self.skeleton(name)
            (folder / name).mkdir(exist_ok=True)
            save = model.config.save_pretrained if name == "text_encoder" else model.save_config
            save(folder / name)
        shutil.copytree(TINY / "tokenizer", folder / "tokenizer")
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n", "utf-8")


def unet_settings(source: Source) -> Mapping[str, Any]:
    """Return the U-Net's settings, which determine the sizes of latents and text."""
    settings: Mapping[str, Any] = source.skeleton("unet").config
    return settings


def _classes() -> dict[str, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    return {"text_encoder": CLIPTextModel, "unet": UNet2DConditionModel, "vae_decoder": AutoencoderKL}
