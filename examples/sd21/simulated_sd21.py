"""Stand-ins for the three models that only take time, to measure the distribution of work over simulated devices.

The callable engine creates one of each in a worker. The U-Net sleeps ``ms_per_row`` per row, for any batch. The sizes
are those of the tiny model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
TOKENS, WIDTH, SIDE, PIXELS = 77, 48, 8, 64


class TextEncoder:
    """Ids to zeros, without delay."""

    inputs = (("input_ids", "int64", ("batch", TOKENS)),)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """(N, 77) to (N, 77, 48)."""
        return {"last_hidden_state": np.zeros((len(inputs["input_ids"]), TOKENS, WIDTH), np.float32)}


class UNet:
    """Latents to a tenth of them, after the time of the rows."""

    def __init__(self, ms_per_row: float, timesteps: int | str = 1) -> None:
        """Take the time of a row, and whether there is 1 time step for all rows or one for each of a "batch"."""
        self.inputs = (
            ("sample", "float32", ("batch", 4, SIDE, SIDE)),
            ("timestep", "int64", (timesteps,)),
            ("encoder_hidden_states", "float32", ("batch", TOKENS, WIDTH)),
        )
        self._s_per_row = ms_per_row / 1e3

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """(N, 4, 8, 8) to the same shape."""
        time.sleep(self._s_per_row * len(inputs["sample"]))
        return {"out_sample": inputs["sample"] * np.float32(0.1)}


class Decoder:
    """Latents to gray, without delay."""

    inputs = (("latent_sample", "float32", ("batch", 4, SIDE, SIDE)),)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """(N, 4, 8, 8) to (N, 3, 64, 64)."""
        return {"sample": np.zeros((len(inputs["latent_sample"]), 3, PIXELS, PIXELS), np.float32)}


def make_text_encoder(device: str, ms_per_row: float) -> TextEncoder:
    """Return a worker's text encoder."""
    return TextEncoder()


def make_unet(device: str, ms_per_row: float) -> UNet:
    """Return a worker's U-Net."""
    return UNet(ms_per_row)


def make_unet_of_timesteps(device: str, ms_per_row: float) -> UNet:
    """Return a worker's U-Net that takes a time step for each row."""
    return UNet(ms_per_row, "batch")


def make_decoder(device: str, ms_per_row: float) -> Decoder:
    """Return a worker's decoder."""
    return Decoder()


#: The models for ParallelPredictUtils, in place of three files.
MODELS = {
    "text_encoder": f"{Path(__file__).resolve()}:make_text_encoder",
    "unet": f"{Path(__file__).resolve()}:make_unet",
    "vae_decoder": f"{Path(__file__).resolve()}:make_decoder",
}
#: The same with a time step for each row.
MODELS_OF_TIMESTEPS = {**MODELS, "unet": f"{Path(__file__).resolve()}:make_unet_of_timesteps"}
