"""The settings of an image model.

The class gives the names, types, ranges and defaults. ``image_checks.py`` checks what goes beyond them, such as files
and devices. The docstrings of the attributes are the descriptions in the JSON schema.
"""

# ruff: noqa: RUF012 - pydantic copies the defaults

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ascend_parallel.diffusion.model_folder import MODELS

from .model_config import Count, Name, Settings, Text, python_in_folder

__all__ = ["ImageConfig"]


class ImageConfig(Settings):
    """A Stable Diffusion that draws pictures behind ``POST /v1/images/generations``."""

    folder: Text
    """A folder with text_encoder, unet and vae_decoder (model.onnx or model.mindir each), tokenizer and scheduler;
    relative to the configuration file."""

    name: Name = Field(default_factory=str)
    """The model's name for clients. Default: the name of the folder."""

    devices: Text | list[Text] | None = None
    """Devices, such as 'ascend:0,1', 'gpu:0-3' or 'cpu:0,1'. Default: all devices of the machine's best type."""

    engine: Literal["mslite", "onnxruntime"] | None = None
    """mslite or onnxruntime. Default: by the models' files."""

    engine_options: dict[str, Any] = {}
    """Options of the engine. A path in them is relative to the working directory."""

    worker_python: Text | None = None
    """Python interpreter of the workers, if the engine needs another one: a name on PATH, or a file, relative to the
    configuration file."""

    steps: Count = 30
    """Denoising steps of a picture whose request does not say how many."""

    max_steps: Count = 100
    """The most steps that a request may ask for."""

    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 7.5
    """How closely a picture follows its prompt, where the request does not say; 1 or less turns guidance off."""

    sizes: list[Text] = []
    """Further sizes that requests may ask for, such as '768x512', if the models leave it open; sides are multiples of
    64."""

    max_pictures: Count = 10
    """The most pictures of one request."""

    max_batch_size: Count = 8
    """Rows of a batch of the U-Net, at most; with guidance, a picture has two. A model of fixed batch keeps its own."""

    max_queue_size: Count = 64
    """How many pictures may wait or be drawn. Further ones are refused at once, with status 503."""

    timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long a request may wait and be drawn, in seconds."""

    predict_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """How long a worker may compute a batch, in seconds. A worker that computes longer is killed and replaced."""

    build_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long a worker may take to load the models, in seconds."""

    max_restarts: Annotated[int, Field(ge=0)] | None = None
    """How often a worker process is restarted within ten minutes before its device is given up. Default: no limit."""

    @model_validator(mode="before")
    @classmethod
    def _name_by_folder(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("folder"), str):
            return {**data, "name": Path(data["folder"]).resolve().name}
        return data

    @property
    def names(self) -> list[str]:
        """Its name, and those of its three models."""
        return [self.name, *[f"{self.name}.{part}" for part in MODELS]]

    def relative_to(self, folder: str) -> ImageConfig:
        """Return the same model with its files found from ``folder``."""
        python = python_in_folder(folder, self.worker_python)
        return self.model_copy(update={"folder": os.path.join(folder, self.folder), "worker_python": python})
