"""The liberties of MindSpore Lite's tutorial, taken here and nowhere else.

Its sample for Stable Diffusion on two chips hands each device ``sample[0]``, which lacks the batch dimension, and
a 0-d timestep; MindSpore Lite takes both, as only the number of bytes counts there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ascend_parallel.batching.batch import Array, show_shape
from ascend_parallel.batching.model import Model, to_array
from ascend_parallel.errors import ShapeError
from ascend_parallel.worker.engines import TensorSpec


def shape_like_model(model: Model, inputs: Sequence[Any]) -> list[Any]:
    """Return inputs in the model's shapes and dtypes, where they have as many elements.

    Raises:
        ShapeError: an input has another number of elements, or values that the model's dtype does not hold.
    """
    if not isinstance(inputs, (list, tuple)):
        raise ShapeError(
            f"run_predict got a {type(inputs).__name__} for a device; expected a list of input lists, one a device: "
            "[[sample[0], timestep, ...], [sample[1], timestep, ...]]"
        )
    if model.inputs is None:
        return list(inputs)
    if len(inputs) != len(model.inputs):
        names = ", ".join(spec.name for spec in model.inputs)
        raise ShapeError(f"{len(inputs)} inputs were given for a device, the model takes {len(model.inputs)}: {names}")
    return [_shape_like(spec, to_array(spec.name, value)) for spec, value in zip(model.inputs, inputs, strict=True)]


def _shape_like(spec: TensorSpec, array: Array) -> Array:
    shape = tuple(dim if isinstance(dim, int) else 1 if i == 0 else None for i, dim in enumerate(spec.shape))
    if array.ndim == len(shape):
        return _convert(spec, array)
    if None in shape:  # sizes cannot be counted: only the batch dimension may lack
        return _convert(spec, array[np.newaxis] if array.ndim == len(shape) - 1 and shape[0] == 1 else array)
    if array.size != math.prod(dim or 1 for dim in shape):
        raise ShapeError(
            f"input {spec.name!r} has shape {array.shape}, {array.size} elements; the model takes "
            f"{show_shape(spec.shape)}"
        )
    return _convert(spec, array.reshape([dim or 1 for dim in shape]))


def _convert(spec: TensorSpec, array: Array) -> Array:
    with np.errstate(invalid="ignore"):  # NaN and infinities have no whole number: found below
        converted = array.astype(spec.dtype)
    if converted.dtype.kind in "iu" and not np.array_equal(converted, array):
        raise ShapeError(f"input {spec.name!r} holds values that the model's {spec.dtype} does not: convert them")
    return converted
