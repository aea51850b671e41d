"""Outputs of the chunks put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ascend_parallel.errors import ShapeError

from .batch import Array
from .plan import Plan

#: A result smaller than this is copied out of its block: a page of shared memory is more than it is worth.
SMALL_RESULT_BYTES = 2048


def gather(
    plan: Plan, whole: Mapping[str, Array], results: Sequence[Mapping[str, Array] | None] | None
) -> dict[str, Array]:
    """Return the outputs of the whole call, by name.

    Args:
        plan: how the call was done.
        whole: the arrays in which results were wanted, all rows; where they lie there, nothing is copied.
        results: the outputs of each chunk; None where they were written to ``whole``; None for the list where all were.

    Raises:
        ShapeError: an output cannot be put together out of several chunks.
    """
    if results is None:
        if plan.must_have:
            _check_axes_named(plan, list(whole))
        return {name: _detach(plan, array) for name, array in whole.items()}
    chunks = [_chunk_of(plan, whole, i) if result is None else result for i, result in enumerate(results)]
    names = list(chunks[0])
    if any(set(chunk) != set(names) for chunk in chunks):
        shapes = " and ".join(str(sorted(chunk)) for chunk in chunks)
        raise ShapeError(f"the chunks have different outputs and cannot be put together: {shapes}")
    _check_axes_named(plan, names)
    return {name: _join(plan, name, [chunk[name] for chunk in chunks]) for name in names}


def _check_axes_named(plan: Plan, outputs: Sequence[str]) -> None:
    """Refuse a misspelt name in ``batch_axes``, of a model whose names are not known before its first outputs."""
    if not plan.must_have:
        return
    names = [*(region.name for region in plan.inputs), *outputs]
    for name in plan.must_have:
        if name not in names:
            raise ShapeError(f"batch_axes names {name!r}, but the model has {', '.join(names)}")
    plan.must_have = ()


def _detach(plan: Plan, array: Array) -> Array:
    """Cut the padding off an output that all chunks wrote to its place; copy it where it is small."""
    if plan.span != plan.batch.rows:
        array = array[: plan.batch.rows]
    return array.copy() if array.nbytes < SMALL_RESULT_BYTES and array.base is not None else array


def _chunk_of(plan: Plan, whole: Mapping[str, Array], index: int) -> dict[str, Array]:
    """Return one chunk's outputs, which lie in their places."""
    if not plan.is_sliced:
        return dict(whole)
    start = plan.chunks[index][0]
    return {name: array[start : start + plan.fed_rows(index)] for name, array in whole.items()}


def _join(plan: Plan, name: str, parts: Sequence[Array]) -> Array:
    """Put one output together along its batch axis, without the padding."""
    axis = plan.batch_axes.get(name, 0)
    padded = plan.span - plan.batch.rows
    if axis is None or (len(parts) == 1 and not padded):
        return parts[0].copy() if parts[0].nbytes < SMALL_RESULT_BYTES else parts[0]
    is_declared = name in plan.batch_axes
    for index, part in enumerate(parts):
        _check_rows(name, part, axis, plan.fed_rows(index), is_declared, name in plan.fixed_outputs)
    if padded:
        parts = [*parts[:-1], _without_padding(parts[-1], axis, plan.fed_rows(len(parts) - 1), padded)]
    try:
        return np.concatenate(parts, axis)
    except ValueError:
        shapes = ", ".join(str(part.shape) for part in parts)
        raise ShapeError(
            f"output {name!r} has different shapes in the chunks ({shapes}) and cannot be put together; send rows "
            "that give outputs of different sizes in calls of their own"
        ) from None


def _without_padding(part: Array, axis: int, fed_rows: int, padded: int) -> Array:
    per_row = part.shape[axis] // fed_rows
    keep = per_row * (fed_rows - padded)
    return part[(slice(None),) * (axis % part.ndim) + (slice(keep),)]


def _check_rows(name: str, part: Array, axis: int, rows: int, is_declared: bool, is_fixed: bool) -> None:
    """Check that one chunk's output has the chunk's rows (or, where declared, a multiple) along its axis."""
    if not is_fixed and -part.ndim <= axis < part.ndim:
        have = part.shape[axis]
        if have == rows or (is_declared and have % rows == 0):
            return
    why = "does not hold them, as the model fixes its size" if is_fixed else "does not hold as many"
    raise ShapeError(
        f"output {name!r} has shape {part.shape} for a chunk of {rows} rows: axis {axis} {why}, so "
        f"the chunks cannot be put together. Say where its rows are with batch_axes={{{name!r}: AXIS}}, or "
        f"batch_axes={{{name!r}: None}} if it is the same for every chunk"
    )
