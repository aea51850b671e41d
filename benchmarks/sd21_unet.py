"""Stable Diffusion 2.1's UNet in plain torch, with random weights: the cost of a real step, without 3.4 GB of files.

Modules have the names of diffusers' ``UNet2DConditionModel``, so that its weights can be loaded and the results
compared (tests/benchmarks/test_gpu.py does). Source of the structure: Rombach et al. 2022 (arXiv 2112.10752) and the
configuration file of stable-diffusion-2-1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: The parameters of the original.
PARAMETERS = 865_910_724
LONGEST_PERIOD = 10000  # of the sines of the timestep, in steps


class Sizes(NamedTuple):
    """The sizes of a UNet of this kind; the defaults are those of Stable Diffusion 2.1."""

    channels: Sequence[int] = (320, 640, 1280, 1280)
    layers: int = 2
    head: int = 64
    context: int = 1024
    groups: int = 32
    latent: int = 64
    tokens: int = 77


class Resnet(nn.Module):
    """Two convolutions with the timestep added in between, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, time: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=1e-5)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=1e-5)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(N, in_channels, H, W), (1, T) -> (N, out_channels, H, W)."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time_emb_proj(F.silu(time))[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class Attention(nn.Module):
    """Attention of pixels to pixels, or to the prompt's tokens."""

    def __init__(self, width: int, context: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(N, pixels, width), (N, tokens, context) -> (N, pixels, width)."""
        q, k, v = (
            part.unflatten(-1, (-1, self.head)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))


class GatedProjection(nn.Module):
    """A linear layer with two halves, of which one is the gate of the other (GEGLU)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., 4 width)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Two layers for each pixel; the identity is in the place of the original's dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GatedProjection(width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    """Attention to the picture, attention to the prompt, and a network for each pixel."""

    def __init__(self, width: int, context: int, head: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1 = Attention(width, width, head)
        self.attn2 = Attention(width, context, head)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(N, pixels, width), (N, tokens, context) -> (N, pixels, width)."""
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    """A transformer block over the pixels of a picture."""

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(sizes.groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, sizes.context, sizes.head)])
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(N, width, H, W), (N, tokens, context) -> (N, width, H, W)."""
        pixels = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        pixels = self.proj_out(self.transformer_blocks[0](pixels, context))
        return x + pixels.transpose(1, 2).unflatten(2, x.shape[2:])


class Resample(nn.Module):
    """Halves the size by a convolution, or doubles it by repeating pixels before a convolution."""

    def __init__(self, width: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(width, width, 3, stride=1 if up else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> (N, width, H / 2 or 2 H, W / 2 or 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)


class Block(nn.Module):
    """The layers for one size of the picture, on the way down, up, or in the middle.

    Args:
        widths: (in_channels, out_channels) of each resnet.
        sizes: the sizes of the UNet.
        attentions: the number of transformers.
    """

    def __init__(self, widths: Sequence[tuple[int, int]], sizes: Sizes, *, attentions: int) -> None:
        super().__init__()
        time = 4 * sizes.channels[0]
        self.resnets = nn.ModuleList(
            [Resnet(in_channels, out_channels, time, sizes.groups) for in_channels, out_channels in widths]
        )
        if attentions:
            self.attentions = nn.ModuleList(
                [Transformer(out_channels, sizes) for _, out_channels in widths[:attentions]]
            )


class DownBlock(Block):
    """Keeps the output of each layer for the way up."""

    def __init__(self, in_channels: int, out_channels: int, sizes: Sizes, *, attends: bool, is_last: bool) -> None:
        widths = [(in_channels, out_channels), *[(out_channels, out_channels)] * (sizes.layers - 1)]
        super().__init__(widths, sizes, attentions=sizes.layers if attends else 0)
        self.attends = attends
        self.downsamplers = nn.ModuleList([] if is_last else [Resample(out_channels, up=False)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor, kept: list[Tensor]) -> Tensor:
        """Append the outputs to ``kept``, and return the last one."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            x = self.attentions[i](x, context) if self.attends else x
            kept.append(x)
        for resample in self.downsamplers:
            x = resample(x)
            kept.append(x)
        return x


class MidBlock(Block):
    """A transformer between two resnets, at the smallest size."""

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__([(width, width)] * 2, sizes, attentions=1)

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """(N, width, H, W) -> the same."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x, time), context), time)


class UpBlock(Block):
    """Uses the outputs that were kept on the way down."""

    def __init__(self, widths: Sequence[tuple[int, int]], sizes: Sizes, *, attends: bool, is_last: bool) -> None:
        super().__init__(widths, sizes, attentions=len(widths) if attends else 0)
        self.attends = attends
        self.upsamplers = nn.ModuleList([] if is_last else [Resample(widths[-1][1], up=True)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor, kept: list[Tensor]) -> Tensor:
        """Take outputs from the end of ``kept``."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, kept.pop()], dim=1), time)
            x = self.attentions[i](x, context) if self.attends else x
        for resample in self.upsamplers:
            x = resample(x)
        return x


class TimeEmbedding(nn.Module):
    """The timestep as sines and cosines, followed by two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, timestep: Tensor) -> Tensor:
        """(1,) -> (1, 4 width); source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5, cosines first."""
        half = self.width // 2
        indices = torch.arange(half, dtype=torch.float32, device=timestep.device)
        angles = timestep.float()[:, None] * torch.exp(-math.log(LONGEST_PERIOD) * indices / half)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(waves)))


class UNet(nn.Module):
    """sample (N, 4, H, W), timestep (1,), context (N, tokens, width) -> noise (N, 4, H, W)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        down, last = sizes.channels, len(sizes.channels) - 1
        self.conv_in = nn.Conv2d(4, down[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(down[0])
        self.down_blocks = nn.ModuleList(
            DownBlock(down[max(i - 1, 0)], width, sizes, attends=i < last, is_last=i == last)
            for i, width in enumerate(down)
        )
        self.mid_block = MidBlock(down[-1], sizes)
        self.up_blocks = nn.ModuleList(
            UpBlock(widths, sizes, attends=i > 0, is_last=i == last) for i, widths in enumerate(up_widths(sizes))
        )
        self.conv_norm_out = nn.GroupNorm(sizes.groups, down[0], eps=1e-5)
        self.conv_out = nn.Conv2d(down[0], 4, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """One step of denoising."""
        time = self.time_embedding(timestep)
        x = self.conv_in(sample)
        kept = [x]
        for block in self.down_blocks:
            x = block(x, time, context, kept)
        x = self.mid_block(x, time, context)
        for block in self.up_blocks:
            x = block(x, time, context, kept)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def up_widths(sizes: Sizes) -> list[list[tuple[int, int]]]:
    """Return (in_channels, out_channels) of each resnet of each up block; the kept outputs are part of the input."""
    kept = [sizes.channels[0]]
    for i, width in enumerate(sizes.channels):
        kept += [width] * (sizes.layers + (i < len(sizes.channels) - 1))
    before = sizes.channels[-1]
    blocks = []
    for width in reversed(sizes.channels):
        block = []
        for _ in range(sizes.layers + 1):
            block.append((before + kept.pop(), width))
            before = width
        blocks.append(block)
    return blocks


def count_parameters(sizes: Sizes) -> int:
    """Return the number of parameters, without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UNet(sizes).parameters())


def inputs_for(sizes: Sizes, rows: int) -> dict[str, np.ndarray]:
    """Return random inputs of a step, float32."""
    random = np.random.default_rng(0)
    return {
        "sample": random.standard_normal((rows, 4, sizes.latent, sizes.latent), np.float32),
        "timestep": np.array([500], np.float32),
        "encoder_hidden_states": random.standard_normal((rows, sizes.tokens, sizes.context), np.float32),
    }


class Predictor:
    """The model for the callable engine: numpy arrays in and out, torch in between."""

    def __init__(self, unet: UNet, device: torch.device, dtype: torch.dtype, sizes: Sizes) -> None:
        self._unet, self._device, self._dtype = unet, device, dtype
        sample = ("batch", 4, sizes.latent, sizes.latent)
        context = ("batch", sizes.tokens, sizes.context)
        self.inputs = [
            ("sample", "float32", sample),
            ("timestep", "float32", (1,)),
            ("encoder_hidden_states", "float32", context),
        ]
        self.outputs = [("out_sample", "float32", sample)]

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one step; the result is in the host's memory."""
        with torch.inference_mode():
            on_device = {name: torch.tensor(array).to(self._device) for name, array in inputs.items()}
            sample, context = on_device["sample"].to(self._dtype), on_device["encoder_hidden_states"].to(self._dtype)
            return {"out_sample": self._unet(sample, on_device["timestep"], context).float().cpu().numpy()}


def make_unet(device: str, sizes: Mapping[str, Any] | None = None) -> Predictor:
    """Return the model on ``gpu:N`` in bfloat16, or on ``cpu:N`` in float32, always with the same weights."""
    kind, _, index = device.partition(":")
    torch_device = torch.device(f"cuda:{index}" if kind == "gpu" else "cpu")
    dtype = torch.bfloat16 if kind == "gpu" else torch.float32
    unet_sizes = Sizes(**(sizes or {}))
    torch.manual_seed(0)
    with torch_device:
        unet = UNet(unet_sizes).to(dtype).eval()
    return Predictor(unet, torch_device, dtype, unet_sizes)
