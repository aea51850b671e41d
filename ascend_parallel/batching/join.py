"""Which requests of different clients can be joined into one batch, and how its outputs are split again.

Pure functions over specs and arrays; the batcher of ``serving/`` uses them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ascend_parallel.worker.engines.base import TensorSpec

from .batch import Array, Batch, BatchAxes, find_batch

#: An input that all requests of a batch share is compared by its bytes, or by their hash where it is larger.
_COMPARED_BYTES = 1024


class Rows(NamedTuple):
    """The rows of one request.

    Attributes:
        rows: how many there are; 1 where no input holds rows.
        axes: the batch axis of each input; None for one that is the same for all rows.
        fixed_rows: rows that the model takes at a time; None where it takes any number.
        can_join: whether rows of other requests can be put beside these.
        is_whole: whether all inputs hold rows, so that shapes alone tell which requests can be joined.
        names: of the inputs, in their order. Requests to a model that does not tell its own may come in any.
    """

    rows: int
    axes: tuple[int | None, ...]
    fixed_rows: int | None
    can_join: bool
    is_whole: bool
    names: tuple[str, ...] = ()


def find_rows(
    specs: Sequence[TensorSpec] | None, names: Sequence[str], arrays: Sequence[Array], declared: BatchAxes
) -> Rows:
    """Find the rows of a request; raises ShapeError where its inputs do not fit the model.

    The arguments are those of :func:`~ascend_parallel.batching.batch.find_batch`, whose rules hold. One thing is added:
    of a request with one row, ``find_batch`` need not know which inputs hold it. Joining has to. There, inputs whose
    first axis has a name of its own ("steps" where the others have "batch") do not hold rows. If no name is
    used twice, the request is not joined with others.
    """
    batch = find_batch(specs, names, arrays, declared)
    if all(axis is None for axis in batch.axes):
        return Rows(1, batch.axes, None, can_join=False, is_whole=False, names=tuple(names))
    axes, is_clear = _axes_of_one_row(specs, names, batch, declared) if batch.rows == 1 else (batch.axes, True)
    return Rows(batch.rows, axes, batch.fixed_rows, can_join=is_clear, is_whole=None not in axes, names=tuple(names))


def _axes_of_one_row(
    specs: Sequence[TensorSpec] | None, names: Sequence[str], batch: Batch, declared: BatchAxes
) -> tuple[tuple[int | None, ...], bool]:
    """Return the batch axes of a request of one row, and whether they are clear."""
    words: dict[int, str] = {}
    for position, axis in enumerate(batch.axes):
        word = specs[position].shape[axis] if specs is not None and axis is not None else None
        if isinstance(word, str):
            words[position] = word
    counts = Counter(words.values())
    if len(counts) < 2:
        return batch.axes, True
    own_names = {i for i, word in words.items() if counts[word] == 1 and names[i] not in declared}
    is_clear = len(own_names) < len(words)
    return tuple(None if i in own_names else axis for i, axis in enumerate(batch.axes)), is_clear


def join_key(arrays: Sequence[Array], rows: Rows) -> Hashable:
    """Return what is equal for requests that can be joined.

    That is names, dtypes, the shape of a row, and the inputs without rows.
    """
    parts: list[Any] = [rows.names]
    for array, axis in zip(arrays, rows.axes, strict=True):
        if axis is None:
            parts.append((array.dtype.str, array.shape, _content(array)))
        else:
            parts.append((array.dtype.str, array.shape[:axis], array.shape[axis + 1 :]))
    return tuple(parts)


def _content(array: Array) -> bytes:
    content = array.tobytes()
    return content if len(content) <= _COMPARED_BYTES else hashlib.sha256(content).digest()


def stand_in(array: Array, axis: int | None, count: int) -> Array:
    """Return an array of an input's dtype, and of its shape with ``count`` rows, that takes no memory."""
    shape = array.shape if axis is None else (*array.shape[:axis], count, *array.shape[axis + 1 :])
    return np.broadcast_to(np.zeros((), array.dtype), shape)


def why_not_split(outputs: Mapping[str, Array], batch_axes: BatchAxes, count: int) -> str:
    """Return why the outputs of ``count`` rows cannot be split by rows; "" if they can."""
    for name, array in outputs.items():
        axis = batch_axes.get(name, 0)
        if axis is None:
            continue
        if (
            not -array.ndim <= axis < array.ndim
            or array.shape[axis] % count
            or (array.shape[axis] != count and name not in batch_axes)
        ):
            return (
                f"output {name!r} has shape {array.shape} for {count} rows: axis {axis} does not hold as many; say "
                f"where its rows are with batch_axes={{{name!r}: AXIS}}, or {{{name!r}: None}} if it is the same for "
                "all rows"
            )
    return ""


def split(outputs: Mapping[str, Array], batch_axes: BatchAxes, count: int, start: int, stop: int) -> dict[str, Array]:
    """Return the outputs of some of ``count`` rows, as views; :func:`why_not_split` returned ""."""
    found = {}
    for name, array in outputs.items():
        axis = batch_axes.get(name, 0) if batch_axes else 0
        if axis == 0 and array.shape[0] == count:
            found[name] = array[start:stop]
        elif axis is None:
            found[name] = array
        else:
            factor = array.shape[axis] // count
            rows = slice(start * factor, stop * factor)
            found[name] = array[(slice(None),) * (axis % array.ndim) + (rows,)]
    return found
