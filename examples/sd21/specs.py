"""What the three models say of themselves: which input is which, of what size and dtype.

Exports differ: they have int32 or int64 ids, a 0-d, [1] or [batch] time step, open or fixed sizes, and sometimes names
of their own. Nothing here is guessed where a model tells it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ascend_parallel import TensorSpec, UsageError

Array = NDArray[Any]
#: The models' inputs by diffusers' names -> how many axes each may have, by which others are known.
RANKS: dict[str, dict[str, tuple[int, ...]]] = {
    "text_encoder": {"input_ids": (2,)},
    "unet": {"sample": (4,), "timestep": (0, 1), "encoder_hidden_states": (3,)},
    "vae_decoder": {"latent_sample": (4,)},
}


class Inputs(NamedTuple):
    """The models' inputs, by what they are for."""

    ids: TensorSpec
    sample: TensorSpec
    timestep: TensorSpec
    text: TensorSpec
    latents: TensorSpec


class UNetInputs(NamedTuple):
    """The U-Net's inputs alone, by what they are for."""

    sample: TensorSpec
    timestep: TensorSpec
    text: TensorSpec


class Sizes(NamedTuple):
    """What the models' shapes have to agree on.

    Attributes:
        latent: channels, height, width.
        tokens: ids of a prompt.
        width: numbers that the text encoder gives for a token; None where nothing says.
    """

    latent: tuple[int, int, int]
    tokens: int
    width: int | None


def find_inputs(specs: Mapping[str, Sequence[TensorSpec]]) -> Inputs:
    """Return the models' inputs: those with diffusers' names, else those with as many axes.

    Args:
        specs: the inputs of each model.

    Raises:
        UsageError: a model has other inputs than Stable Diffusion 2.1's.
    """
    return Inputs(*(_find(model, role, specs[model]) for model, roles in RANKS.items() for role in roles))


def find_unet_inputs(specs: Sequence[TensorSpec]) -> UNetInputs:
    """Return the U-Net's inputs, as :func:`find_inputs` does for all three models."""
    return UNetInputs(*(_find("unet", role, specs) for role in RANKS["unet"]))


def _find(model: str, role: str, specs: Sequence[TensorSpec]) -> TensorSpec:
    roles = RANKS[model]
    of_rank = [spec for spec in specs if len(spec.shape) in roles[role]]
    found = [spec for spec in of_rank if spec.name == role] or of_rank
    if len(found) != 1 or len(specs) != len(roles):
        told = ", ".join(f"{spec.name}{list(spec.shape)}" for spec in specs)
        raise UsageError(
            f"the model {model} takes {told}; Stable Diffusion 2.1's takes {', '.join(roles)}: is it "
            "another kind of model?"
        )
    return found[0]


def find_sizes(inputs: Inputs, settings: Mapping[str, Mapping[str, Any]], tokens: int) -> Sizes:
    """Return the sizes, from the models and, where they leave them open, from their config.json.

    Args:
        inputs: the models' inputs.
        settings: model name -> its config.json.
        tokens: the tokenizer's number of ids, for a text encoder that takes any.

    Raises:
        UsageError: nothing tells the latents' size, or the decoder takes latents of another.
    """
    unet = settings["unet"]
    size = unet.get("sample_size")
    sides = list(size) if isinstance(size, (list, tuple)) else [size, size]
    latent = _fill(inputs.sample.shape[1:], (unet.get("in_channels"), *sides))
    if None in latent:
        raise UsageError(
            f"the U-Net takes {inputs.sample.name}{list(inputs.sample.shape)}, and unet/config.json does not fix the "
            "open sizes; expected in_channels and sample_size there"
        )
    channels, height, width = (int(dim or 0) for dim in latent)
    if _fill(inputs.latents.shape[1:], latent) != latent:
        raise UsageError(
            f"the U-Net makes latents {latent}, the decoder takes {inputs.latents.name}{list(inputs.latents.shape)}: "
            "they are not of one export"
        )
    (length,) = _fill(inputs.ids.shape[1:], (tokens,))
    (text_width,) = _fill(inputs.text.shape[2:], (unet.get("cross_attention_dim"),))
    return Sizes((channels, height, width), int(length or tokens), text_width)


def _fill(shape: Sequence[Any], wanted: Sequence[int | None]) -> tuple[int | None, ...]:
    """Return a shape with its open sizes as wanted."""
    return tuple(dim if isinstance(dim, int) else want for dim, want in zip(shape, wanted, strict=True))


def timestep_shape(inputs: Inputs | UNetInputs, rows: int) -> tuple[int, ...]:
    """Return the shape in which a U-Net takes its time step: (), (1,), or (rows,)."""
    if not inputs.timestep.shape:
        return ()
    axis = inputs.timestep.shape[0]
    # An open axis with a word of its own ("steps" in optimum's exports, beside "batch_size") takes one for all rows.
    is_own_word = isinstance(axis, str) and axis != inputs.sample.shape[0]
    return (1,) if axis == 1 or is_own_word else (rows,)


def static_shapes(inputs: Inputs, sizes: Sizes, rows: Mapping[str, int]) -> dict[str, dict[str, list[int]]]:
    """Return the models' input shapes with nothing left open, for an engine that needs it.

    Args:
        inputs: the models' inputs.
        sizes: what fills the open sizes.
        rows: model name -> rows of a call; a batch that the model fixes itself stays.

    Returns:
        Model name -> input name -> shape.
    """
    text = rows["unet"]
    shapes: dict[str, dict[TensorSpec, Sequence[int | None]]] = {
        "text_encoder": {inputs.ids: (rows["text_encoder"], sizes.tokens)},
        "unet": {
            inputs.sample: (text, *sizes.latent),
            inputs.timestep: timestep_shape(inputs, text),
            inputs.text: (text, sizes.tokens, sizes.width),
        },
        "vae_decoder": {inputs.latents: (rows["vae_decoder"], *sizes.latent)},
    }
    return {model: {spec.name: _close(spec, want) for spec, want in wanted.items()} for model, wanted in shapes.items()}


def _close(spec: TensorSpec, wanted: Sequence[int | None]) -> list[int]:
    filled = _fill(spec.shape, wanted)
    if None in filled:
        raise UsageError(f"nothing tells the open sizes of {spec.name}{list(spec.shape)}; expected them in config.json")
    return [int(dim or 0) for dim in filled]


def pick_output(outputs: Mapping[str, Array], name: str, axes: int) -> Array:
    """Return an output by diffusers' name, else the first one with so many axes.

    Raises:
        UsageError: there is none.
    """
    alike = [array for array in outputs.values() if array.ndim == axes]
    if name in outputs or alike:
        return outputs[name] if name in outputs else alike[0]
    told = ", ".join(f"{key}{list(array.shape)}" for key, array in outputs.items())
    raise UsageError(f"a model gives {told}; expected {name} with {axes} axes: is it another kind of model?")


def to_dtype(array: Array, spec: TensorSpec) -> Array:
    """Return the array in the model's dtype (a float16 U-Net takes float16 latents), the same where it has it."""
    return array.astype(np.dtype(spec.dtype), copy=False)
