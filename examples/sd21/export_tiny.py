"""Writes a small Stable Diffusion in the layout of an ONNX export by diffusers and optimum.

Each model accepts any batch size; the U-Net takes a time step for each row. All other axes are fixed, so that a batch
size makes all shapes of a model static, for engines that need that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnxruntime
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers import __version__ as diffusers_version
from networks import LENGTH, Network, make_network, write_onnx
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextModel

END_OF_WORD = "</w>"
START, END, PAD = "<|startoftext|>", "<|endoftext|>", "!"  # "!" is id 0: it pads in 2.1
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


def export_model(folder: Path, text_encoder: CLIPTextModel, unet: UNet2DConditionModel, vae: AutoencoderKL) -> None:
    """Write the three networks with their settings, and the folder's index."""
    for name, model in {"text_encoder": text_encoder, "unet": unet, "vae_decoder": vae}.items():
        network = make_network(name, model.eval(), unet.config, rows=2, is_timestep_per_row=True)
        export(network, folder / name)
    text_encoder.config.save_pretrained(folder / "text_encoder")
    unet.save_config(folder / "unet")
    vae.save_config(folder / "vae_decoder")
    write_json(folder / "model_index.json", INDEX)


def export(network: Network, folder: Path) -> None:
    """Write one network as `folder`/model.onnx with an open batch axis, and compare it with torch."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.onnx"
    expected = write_onnx(network, file, is_batch_open=True)
    feeds = {name: tensor.numpy() for name, tensor in network.inputs.items()}
    actual = onnxruntime.InferenceSession(file).run(network.outputs, feeds)
    for ours, (name, theirs) in zip(actual, expected.items(), strict=True):
        print(f"{folder.name} {name}: difference from torch {abs(ours - theirs.numpy()).max():.1e}")


def write_scheduler(folder: Path, prediction_type: str) -> None:
    """Write scheduler_config.json for a model trained to predict "epsilon" or "v_prediction"."""
    write_json(folder / "scheduler_config.json", SCHEDULER | {"prediction_type": prediction_type})


def write_tokenizer(folder: Path, words: Sequence[str]) -> int:
    """Write a CLIP tokenizer with `words`, in lower case, as single tokens; other words are spelled.

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
    """Return the byte pairs to merge, in order, so that each word becomes a single token.

    A word is merged by the pairs of the words before it; the remaining pieces are joined from the left.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + END_OF_WORD]
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            known = [pair for pair in pairs if pair in ranks]
            first = min(known, key=ranks.__getitem__) if known else pairs[0]
            ranks.setdefault(first, len(ranks))
            position = pairs.index(first)
            pieces[position : position + 2] = ["".join(first)]
    return list(ranks)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a settings file; create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
