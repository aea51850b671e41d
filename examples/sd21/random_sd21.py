"""Stable Diffusion 2.1 at its real size with random weights, for measurements without the real weights.

The settings are those of the published 512 x 512 model ("2.1 base", which predicts the noise): 866 million parameters
in the U-Net, 340 million in the text encoder (OpenCLIP ViT-H without its last layer), 49 million in the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": (5, 10, 20, 20),  # in fact, the number of heads
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
TEXT_ENCODER = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "max_position_embeddings": 77,
    "projection_dim": 512,
    "hidden_act": "gelu",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
VAE = {
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.18215,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
#: E[silu(x)^2] for a normally distributed x: the power of the last convolution's input after the normalisation.
SILU_POWER = 0.3558
NOISE_DEVIATION = 1.0  # of the U-Net's predictions: that of noise, as for a trained model
PICTURE_DEVIATION = 0.4  # of pixels in -1..1: only few are clipped to black and white


def make_text_encoder() -> Any:
    """Return the text encoder with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(**TEXT_ENCODER)
    config._attn_implementation = "eager"  # exports to plain matrix products
    return CLIPTextModel(config)


def make_unet() -> Any:
    """Return the U-Net with random weights; its predictions have the deviation of noise."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(**UNET)
    _scale_output(unet.conv_out, NOISE_DEVIATION)
    return unet


def make_vae() -> Any:
    """Return the autoencoder with random weights; its pictures have contrast."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(**VAE)
    _scale_output(vae.decoder.conv_out, PICTURE_DEVIATION)
    return vae


MAKERS: dict[str, Callable[[], Any]] = {
    "text_encoder": make_text_encoder,
    "unet": make_unet,
    "vae_decoder": make_vae,
}


def _scale_output(last: torch.nn.Conv2d, deviation: float) -> None:
    """Initialise a last convolution, after a normalisation and a SiLU, so that its outputs have this deviation.

    With torch's default it is at most a third: pictures would be gray, and different pictures would look the same.
    """
    fan_in = last.weight[0].numel()
    torch.nn.init.normal_(last.weight, std=deviation / (SILU_POWER * fan_in) ** 0.5)
