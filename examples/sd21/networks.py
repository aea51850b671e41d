"""Stable Diffusion's three networks, wrapped for the ONNX export: with the inputs and outputs of diffusers' names.

Needs torch; diffusers and transformers are needed for the networks themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

OPSET = 14  # higher ones have LayerNormalization nodes, whose epsilon some engines ignore
LENGTH = 77  # tokens of a prompt
TRACED_TIMESTEP = 500  # any time step
BATCH = "batch"  # the name of an open batch axis


class TextEncoder(torch.nn.Module):
    """Ids to the hidden states that the U-Net attends to, and the pooled output."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (N, 77) to states (N, 77, width) and pooled outputs (N, width)."""
        output = self.model(input_ids=input_ids)
        return output.last_hidden_state, output.pooler_output


class UNet(torch.nn.Module):
    """Noisy latents to the prediction for the scheduler's step."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor]:
        """Latents (N, 4, H, W), time steps (1,) or (N,) and states (N, 77, width) to (N, 4, H, W)."""
        return (self.model(sample, timestep, encoder_hidden_states, return_dict=False)[0],)


class VaeDecoder(torch.nn.Module):
    """Latents, already divided by the scaling factor, to pictures in -1..1."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent_sample: torch.Tensor) -> tuple[torch.Tensor]:
        """Latents (N, 4, H, W) to pictures (N, 3, 8 H, 8 W)."""
        return (self.model.decode(latent_sample, return_dict=False)[0],)


class Network(NamedTuple):
    """One network, ready to export.

    Attributes:
        module: takes the inputs in order, and returns a tuple.
        inputs: name -> tensor; the first axis is the batch, except for a single time step.
        outputs: the names of the outputs.
    """

    module: torch.nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: list[str]


def make_network(
    name: str, model: Any, unet: Mapping[str, Any], rows: int, *, is_timestep_per_row: bool = False
) -> Network:
    """Wrap a model of diffusers or transformers.

    Args:
        name: "text_encoder", "unet" or "vae_decoder".
        model: the CLIPTextModel, the UNet2DConditionModel or the AutoencoderKL.
        unet: the U-Net's settings, which determine the sizes of all inputs.
        rows: the batch size of the traced inputs.
        is_timestep_per_row: whether the U-Net takes a time step for each row, or one for all.
    """
    random = torch.Generator().manual_seed(0)
    size = unet["sample_size"]
    sides = list(size) if isinstance(size, (list, tuple)) else [size, size]
    latents = torch.randn(rows, unet["in_channels"], *sides, generator=random)
    if name == "text_encoder":
        ids = torch.randint(model.config.vocab_size, (rows, LENGTH), generator=random)
        return Network(TextEncoder(model), {"input_ids": ids}, ["last_hidden_state", "pooler_output"])
    if name == "vae_decoder":
        return Network(VaeDecoder(model), {"latent_sample": latents}, ["sample"])
    text = torch.randn(rows, LENGTH, unet["cross_attention_dim"], generator=random)
    timesteps = torch.tensor([TRACED_TIMESTEP] * (rows if is_timestep_per_row else 1))
    inputs = {"sample": latents, "timestep": timesteps, "encoder_hidden_states": text}
    return Network(UNet(model), inputs, ["out_sample"])


def write_onnx(network: Network, file: Path, *, is_batch_open: bool) -> dict[str, torch.Tensor]:
    """Write a network as an ONNX file; above 2 GB, each weight is written to its own file beside it.

    Args:
        network: in evaluation mode.
        file: a file in an existing folder.
        is_batch_open: whether the model accepts any batch size, or only that of its inputs.

    Returns:
        The outputs of torch: output name -> tensor.
    """
    single = {name for name, tensor in network.inputs.items() if name == "timestep" and len(tensor) == 1}
    batched = [name for name in (*network.inputs, *network.outputs) if name not in single]
    with warnings.catch_warnings():
        # Warnings about this old exporter, and about what a trace cannot follow; the numbers are compared afterwards.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.module,
            tuple(network.inputs.values()),
            str(file),
            input_names=list(network.inputs),
            output_names=network.outputs,
            dynamic_axes={name: {0: BATCH} for name in batched} if is_batch_open else None,
            opset_version=OPSET,
            dynamo=False,  # the newer exporter starts at opset 18, which MindSpore Lite does not support
        )
    with torch.no_grad():
        outputs = network.module(*network.inputs.values())
    return dict(zip(network.outputs, outputs, strict=True))
