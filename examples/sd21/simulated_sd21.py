"""Stand-ins for the three models that only take their time: how work spreads over devices that are not here.

The callable engine makes one of each in a worker; the U-Net sleeps ``ms_per_row`` for each row, whatever the batch. The
sizes are the tiny model's.
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
    """Ids to zeros, at once."""

    inputs = (("input_ids", "int64", ("batch", TOKENS)),)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """(N, 77) to (N, 77, 48)."""
        return {"last_hidden_state": np.zeros((len(inputs["input_ids"]), TOKENS, WIDTH), np.float32)}


class UNet:
    """Latents to a tenth of them, after the time of the rows."""

    inputs = (
        ("sample", "float32", ("batch", 4, SIDE, SIDE)),
        ("timestep", "int64", (1,)),
        ("encoder_hidden_states", "float32", ("batch", TOKENS, WIDTH)),
    )

    def __init__(self, ms_per_row: float) -> None:
        self._s_per_row = ms_per_row / 1e3

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """(N, 4, 8, 8) to the same."""
        time.sleep(self._s_per_row * len(inputs["sample"]))
        return {"out_sample": inputs["sample"] * np.float32(0.1)}


class Decoder:
    """Latents to gray, at once."""

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


def make_decoder(device: str, ms_per_row: float) -> Decoder:
    """Return a worker's decoder."""
    return Decoder()


#: What ParallelPredictUtils takes in place of three files.
MODELS = {
    "text_encoder": f"{Path(__file__).resolve()}:make_text_encoder",
    "unet": f"{Path(__file__).resolve()}:make_unet",
    "vae_decoder": f"{Path(__file__).resolve()}:make_decoder",
}
