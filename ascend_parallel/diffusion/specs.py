"""The inputs and sizes of the three models, as the models declare them.

Exports differ: they have int32 or int64 ids, a 0-d, [1] or [batch] time step, open or fixed sizes, and sometimes other
names. A model's own declaration always takes precedence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ascend_parallel.errors import UsageError
from ascend_parallel.worker.engines import TensorSpec

Array = NDArray[Any]
#: Model -> input, by diffusers' names -> its possible numbers of axes, which identify inputs with other names.
RANKS: dict[str, dict[str, tuple[int, ...]]] = {
    "text_encoder": {"input_ids": (2,)},
    "unet": {"sample": (4,), "timestep": (0, 1), "encoder_hidden_states": (3,)},
    "vae_decoder": {"latent_sample": (4,)},
}


class Inputs(NamedTuple):
    """The models' inputs, by their purpose."""

    ids: TensorSpec
    sample: TensorSpec
    timestep: TensorSpec
    text: TensorSpec
    latents: TensorSpec


class UNetInputs(NamedTuple):
    """The U-Net's inputs, by their purpose."""

    sample: TensorSpec
    timestep: TensorSpec
    text: TensorSpec


class Sizes(NamedTuple):
    """The sizes that the models must agree on.

    Attributes:
        latent: channels, height, width.
        tokens: ids per prompt.
        width: size of the text encoder's state per token; None if it is unknown.
    """

    latent: tuple[int, int, int]
    tokens: int
    width: int | None


def find_inputs(specs: Mapping[str, Sequence[TensorSpec]]) -> Inputs:
    """Return the models' inputs: those with diffusers' names, else those with matching numbers of axes.

    Args:
        specs: the inputs of each model.

    Raises:
        UsageError: if a model has other inputs than Stable Diffusion 2.1's.
    """
    return Inputs(*(_find(model, role, specs[model]) for model, roles in RANKS.items() for role in roles))


def find_unet_inputs(specs: Sequence[TensorSpec]) -> UNetInputs:
    """Return the U-Net's inputs, like :func:`find_inputs` for all three models."""
    return UNetInputs(*(_find("unet", role, specs) for role in RANKS["unet"]))


def _find(model: str, role: str, specs: Sequence[TensorSpec]) -> TensorSpec:
    roles = RANKS[model]
    of_rank = [spec for spec in specs if len(spec.shape) in roles[role]]
    matching = [spec for spec in of_rank if spec.name == role] or of_rank
    if len(matching) != 1 or len(specs) != len(roles):
        inputs_text = ", ".join(f"{spec.name}{list(spec.shape)}" for spec in specs)
        raise UsageError(
            f"the model {model} takes {inputs_text}; Stable Diffusion 2.1's takes {', '.join(roles)}: is it "
            "another kind of model?"
        )
    return matching[0]


def find_sizes(inputs: Inputs, settings: Mapping[str, Mapping[str, Any]], tokens: int) -> Sizes:
    """Return the sizes from the models, and for open axes from their config.json.

    Args:
        inputs: the models' inputs.
        settings: model name -> its config.json.
        tokens: the tokenizer's number of ids, for a text encoder that accepts any number.

    Raises:
        UsageError: if the latents' size is unknown, or the decoder takes latents of another size.
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
            f"the U-Net outputs latents {latent}, but the decoder takes {inputs.latents.name}"
            f"{list(inputs.latents.shape)}: they are from different exports"
        )
    (length,) = _fill(inputs.ids.shape[1:], (tokens,))
    (text_width,) = _fill(inputs.text.shape[2:], (unet.get("cross_attention_dim"),))
    return Sizes((channels, height, width), int(length or tokens), text_width)


def _fill(shape: Sequence[Any], sizes: Sequence[int | None]) -> tuple[int | None, ...]:
    """Return a shape with its open sizes replaced."""
    return tuple(dim if isinstance(dim, int) else size for dim, size in zip(shape, sizes, strict=True))


def timestep_shape(inputs: Inputs | UNetInputs, rows: int) -> tuple[int, ...]:
    """Return the shape of a U-Net's time step: (), (1,), or (rows,)."""
    if not inputs.timestep.shape:
        return ()
    axis = inputs.timestep.shape[0]
    # An open axis with its own name ("steps" in optimum's exports, besides "batch_size") takes one time step for all
    # rows.
    has_own_name = isinstance(axis, str) and axis != inputs.sample.shape[0]
    return (1,) if axis == 1 or has_own_name else (rows,)


def static_shapes(inputs: Inputs, sizes: Sizes, rows: Mapping[str, int]) -> dict[str, dict[str, list[int]]]:
    """Return the models' input shapes without open axes, for engines that need that.

    Args:
        inputs: the models' inputs.
        sizes: the sizes for open axes.
        rows: model name -> rows per call; a batch size that the model fixes is kept.

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
    return {
        model: {spec.name: _fill_all(spec, filling) for spec, filling in sizes_by_spec.items()}
        for model, sizes_by_spec in shapes.items()
    }


def _fill_all(spec: TensorSpec, sizes: Sequence[int | None]) -> list[int]:
    filled = _fill(spec.shape, sizes)
    if None in filled:
        raise UsageError(f"the open sizes of {spec.name}{list(spec.shape)} are unknown; expected them in config.json")
    return [int(dim or 0) for dim in filled]


def pick_output(outputs: Mapping[str, Array], name: str, axes: int) -> Array:
    """Return an output by diffusers' name, else the first one with this number of axes.

    Raises:
        UsageError: if there is none.
    """
    matching = [array for array in outputs.values() if array.ndim == axes]
    if name in outputs or matching:
        return outputs[name] if name in outputs else matching[0]
    outputs_text = ", ".join(f"{key}{list(array.shape)}" for key, array in outputs.items())
    raise UsageError(
        f"a model has the outputs {outputs_text}; expected {name} with {axes} axes: is it another kind of model?"
    )


def to_dtype(array: Array, spec: TensorSpec) -> Array:
    """Return the array with the model's dtype (a float16 U-Net takes float16 latents); not a copy if it has that."""
    return array.astype(np.dtype(spec.dtype), copy=False)
