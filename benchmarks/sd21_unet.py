"""Stable Diffusion 2.1's UNet in plain torch, with random weights: what a real step costs, without its 3.4 GB of files.

Modules are named as in diffusers' ``UNet2DConditionModel``, so that its weights can be loaded and both compared
(tests/benchmarks/test_sd21_unet.py does). Source of the structure: Rombach et al. 2022 (arXiv 2112.10752) and the
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
LONGEST_PERIOD = 10000  # of the timestep's sines, in steps


class Sizes(NamedTuple):
    """What makes a UNet of this kind large or small; the defaults are Stable Diffusion 2.1's."""

    channels: Sequence[int] = (320, 640, 1280, 1280)
    layers: int = 2
    head: int = 64
    context: int = 1024
    groups: int = 32
    latent: int = 64
    tokens: int = 77


class Resnet(nn.Module):
    """Two convolutions with the timestep added between them, and a straight way around."""

    def __init__(self, taken: int, given: int, time: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, taken, eps=1e-5)
        self.conv1 = nn.Conv2d(taken, given, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, given)
        self.norm2 = nn.GroupNorm(groups, given, eps=1e-5)
        self.conv2 = nn.Conv2d(given, given, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(taken, given, 1) if taken != given else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(N, taken, H, W), (1, T) -> (N, given, H, W)."""
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
    """A linear layer of which one half opens or closes the other (GEGLU)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., 4 width)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Two layers over each pixel; the list has a gap where the original drops out in training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GatedProjection(width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    """Attention to the picture, attention to the prompt, and a network over each pixel."""

    def __init__(self, width: int, context: int, head: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1 = Attention(width, width, head)
        self.attn2 = Attention(width, context, head)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(N, pixels, width), (N, tokens, context) -> (N, pixels, width)."""
        near = self.norm1(x)
        x = x + self.attn1(near, near)
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
    """Half the size by a convolution, or twice the size by repeating pixels before one."""

    def __init__(self, width: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(width, width, 3, stride=1 if up else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> (N, width, H / 2 or 2 H, W / 2 or 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)


class Block(nn.Module):
    """What happens at one size of the picture, on the way down, up, or in the middle.

    Args:
        widths: (taken, given) of each resnet.
        sizes: of the whole.
        attend: after how many of the resnets, from the last, there is a transformer.
    """

    def __init__(self, widths: Sequence[tuple[int, int]], sizes: Sizes, *, attend: int) -> None:
        super().__init__()
        time = 4 * sizes.channels[0]
        self.resnets = nn.ModuleList([Resnet(taken, given, time, sizes.groups) for taken, given in widths])
        if attend:
            self.attentions = nn.ModuleList([Transformer(given, sizes) for _, given in widths[:attend]])


class DownBlock(Block):
    """Keeps what each layer gave, for the way up."""

    def __init__(self, taken: int, given: int, sizes: Sizes, *, attends: bool, is_last: bool) -> None:
        widths = [(taken, given), *[(given, given)] * (sizes.layers - 1)]
        super().__init__(widths, sizes, attend=sizes.layers if attends else 0)
        self.attends = attends
        self.downsamplers = nn.ModuleList([] if is_last else [Resample(given, up=False)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor, kept: list[Tensor]) -> Tensor:
        """Adds to ``kept``; returns the last of what it added."""
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
        super().__init__([(width, width)] * 2, sizes, attend=1)

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """(N, width, H, W) -> the same."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x, time), context), time)


class UpBlock(Block):
    """Takes back what was kept on the way down."""

    def __init__(self, widths: Sequence[tuple[int, int]], sizes: Sizes, *, attends: bool, is_last: bool) -> None:
        super().__init__(widths, sizes, attend=len(widths) if attends else 0)
        self.attends = attends
        self.upsamplers = nn.ModuleList([] if is_last else [Resample(widths[-1][1], up=True)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor, kept: list[Tensor]) -> Tensor:
        """Takes from the end of ``kept``."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, kept.pop()], dim=1), time)
            x = self.attentions[i](x, context) if self.attends else x
        for resample in self.upsamplers:
            x = resample(x)
        return x


class TimeEmbedding(nn.Module):
    """The timestep as sines, through two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, timestep: Tensor) -> Tensor:
        """(1,) -> (1, 4 width); source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5, cosines first."""
        half = self.width // 2
        places = torch.arange(half, dtype=torch.float32, device=timestep.device)
        angles = timestep.float()[:, None] * torch.exp(-math.log(LONGEST_PERIOD) * places / half)
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
    """Return (taken, given) of each resnet of each block on the way up; each takes what was kept, too."""
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
    """Return the number of parameters, without making them."""
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
    """What the runner's callable engine calls: numpy in, numpy out, torch between."""

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
        """Run one step; returns when the result is in the host's memory."""
        with torch.inference_mode():
            there = {name: torch.tensor(array).to(self._device) for name, array in inputs.items()}
            sample, context = there["sample"].to(self._dtype), there["encoder_hidden_states"].to(self._dtype)
            return {"out_sample": self._unet(sample, there["timestep"], context).float().cpu().numpy()}


def make_unet(device: str, sizes: Mapping[str, Any] | None = None) -> Predictor:
    """Return the model on ``gpu:N`` in bfloat16, or on ``cpu:N`` in float32; the same weights every time."""
    kind, _, index = device.partition(":")
    where = torch.device(f"cuda:{index}" if kind == "gpu" else "cpu")
    dtype = torch.bfloat16 if kind == "gpu" else torch.float32
    chosen = Sizes(**(sizes or {}))
    torch.manual_seed(0)
    with where:
        unet = UNet(chosen).to(dtype).eval()
    return Predictor(unet, where, dtype, chosen)
