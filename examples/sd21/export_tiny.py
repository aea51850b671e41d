"""Write a small Stable Diffusion the way diffusers and optimum lay out an ONNX export.

Every model takes any batch size; all other axes are fixed, the U-Net's single `timestep` among
them, so that one number of the batch makes a model static for an engine that needs it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers import __version__ as diffusers_version
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextModel

OPSET = 14  # the newest without LayerNormalization nodes, whose epsilon some engines ignore
END_OF_WORD = "</w>"
START, END, PAD = "<|startoftext|>", "<|endoftext|>", "!"  # "!" is id 0: it pads in 2.1
LENGTH = 77  # tokens per prompt
SCHEDULER = {  # Stable Diffusion 2.1's
    "_class_name": "DDIMScheduler",
    "_diffusers_version": diffusers_version,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "trained_betas": None,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": diffusers_version,
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


class TextEncoder(torch.nn.Module):
    """Ids to the hidden states that the U-Net attends to, and their summary."""

    def __init__(self, model: CLIPTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (N, 77) to states (N, 77, width) and summaries (N, width)."""
        output = self.model(input_ids=input_ids)
        return output.last_hidden_state, output.pooler_output


class UNet(torch.nn.Module):
    """Noisy latents to the prediction that the scheduler steps with."""

    def __init__(self, model: UNet2DConditionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        """Latents (N, 4, 8, 8), one time step (1,) and states (N, 77, width) to (N, 4, 8, 8)."""
        return self.model(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class VaeDecoder(torch.nn.Module):
    """Latents, already divided by the scaling factor, to pictures in -1..1."""

    def __init__(self, model: AutoencoderKL) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        """Latents (N, 4, 8, 8) to pictures (N, 3, 64, 64)."""
        return self.model.decode(latent_sample, return_dict=False)[0]


def export_model(folder: Path, text_encoder: CLIPTextModel, unet: UNet2DConditionModel, vae: AutoencoderKL) -> None:
    """Write the three networks with their settings, and the index of the folder."""
    ids = torch.zeros(2, LENGTH, dtype=torch.int64)
    latents = torch.randn(2, unet.config["in_channels"], *[unet.config["sample_size"]] * 2)
    text = torch.randn(2, LENGTH, unet.config["cross_attention_dim"])
    export(
        TextEncoder(text_encoder),
        folder / "text_encoder",
        {"input_ids": ids},
        ["last_hidden_state", "pooler_output"],
    )
    export(
        UNet(unet),
        folder / "unet",
        {"sample": latents, "timestep": torch.tensor([1]), "encoder_hidden_states": text},
        ["out_sample"],
    )
    export(VaeDecoder(vae), folder / "vae_decoder", {"latent_sample": latents}, ["sample"])
    text_encoder.config.save_pretrained(folder / "text_encoder")
    unet.save_config(folder / "unet")
    vae.save_config(folder / "vae_decoder")
    write_json(folder / "model_index.json", INDEX)


def export(model: torch.nn.Module, folder: Path, inputs: dict[str, torch.Tensor], outputs: list[str]) -> None:
    """Write one network as `folder`/model.onnx, with a free batch axis, and try it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder / "model.onnx")
    batched = [name for name in (*inputs, *outputs) if name != "timestep"]
    torch.onnx.export(
        model.eval(),
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=outputs,
        dynamic_axes={name: {0: "batch"} for name in batched},
        opset_version=OPSET,
        dynamo=False,
    )
    with torch.no_grad():
        wanted = model(*inputs.values())
    wanted = [wanted] if isinstance(wanted, torch.Tensor) else wanted
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    found = onnxruntime.InferenceSession(path).run(outputs, feeds)
    for name, ours, theirs in zip(outputs, found, wanted, strict=True):
        print(f"{folder.name} {name}: {abs(ours - theirs.numpy()).max():.1e} from torch")


def write_scheduler(folder: Path, prediction_type: str) -> None:
    """Write scheduler_config.json for a model trained to predict "epsilon" or "v_prediction"."""
    write_json(folder / "scheduler_config.json", SCHEDULER | {"prediction_type": prediction_type})


def write_tokenizer(folder: Path, words: Sequence[str]) -> int:
    """Write a CLIP tokenizer that knows `words`, lower case, and spells all others.

    Returns:
        The size of the vocabulary.
    """
    alphabet = sorted(ByteLevel.alphabet())  # by code point: CLIP's own order, "!" first
    merges = learn_merges(words)
    tokens = [*alphabet, *(letter + END_OF_WORD for letter in alphabet)]
    tokens += ["".join(pair) for pair in merges]
    tokens += [START, END]
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": PAD, "unk_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", settings | special | {"do_lower_case": True})
    return len(tokens)


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte pairs to merge, first ones first, until each word is a single token.

    A word is merged by the pairs of the words before it; what is left is joined from the left.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + END_OF_WORD]
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            known = [pair for pair in pairs if pair in ranks]
            first = min(known, key=ranks.__getitem__) if known else pairs[0]
            ranks.setdefault(first, len(ranks))
            place = pairs.index(first)
            pieces[place : place + 2] = ["".join(first)]
    return list(ranks)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a settings file, with the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
