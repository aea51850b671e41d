"""What a batch means: which axis of each input holds the rows, and how rows are cut into chunks.

Pure functions over specs, shapes and numbers; nothing here touches a process or shared memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ascend_parallel.errors import ShapeError
from ascend_parallel.worker.engines.base import TensorSpec

Array = np.ndarray[Any, Any]
#: What the user says of batch axes: name -> axis, or None for "not sliced".
BatchAxes = Mapping[str, "int | None"]


class Batch(NamedTuple):
    """How the inputs of one call are to be cut.

    Attributes:
        rows: rows of the whole call.
        fixed_rows: rows that the model takes at a time; None where it takes any number.
        axes: batch axis of each input; None for one that every chunk gets whole.
    """

    rows: int
    fixed_rows: int | None
    axes: tuple[int | None, ...]


class _Row(NamedTuple):
    """One input, as spec, array and declaration show it.

    Attributes:
        axis: the axis that may hold the rows; None where the input is surely given whole.
        rows: its size.
        fixed: the model's size of it; None where the model leaves it open.
        word: the model's word for an open axis ("batch"), where it has one.
    """

    name: str
    axis: int | None
    rows: int
    fixed: int | None = None
    word: str | None = None
    declared: bool = False


def find_batch(
    specs: Sequence[TensorSpec] | None, names: Sequence[str], arrays: Sequence[Array], declared: BatchAxes
) -> Batch:
    """Find the batch axes of a call's inputs from the model's specs, the shapes given, and what was declared.

    Without a declaration, an input is sliced along axis 0 where the model leaves that axis open, or fixes it to
    another size than was given (spec 1, given 2); else every chunk gets it whole. Where all inputs are of
    just the model's size, the call is one chunk. What could be read in two ways is an error that names
    ``batch_axes``.

    Args:
        specs: the model's inputs, in the order of ``arrays``; None where the model does not tell.
        names: names of the inputs, for messages.
        arrays: the inputs.
        declared: input name -> axis or None, as the user's ``batch_axes``.

    Raises:
        ShapeError: the inputs disagree about the number of rows, have none, or do not fit the model.
    """
    inputs = [
        _look(spec, name, array, declared)
        for spec, name, array in zip(specs or itertools.repeat(None), names, arrays, strict=specs is not None)
    ]
    sliced = [item for item in inputs if _is_sliced(item, inputs)]
    if not sliced:
        return Batch(1, None, (None,) * len(inputs))
    rows = _agree(sliced)
    fixed = _agree_on_fixed(sliced)
    for item in inputs if rows != fixed else ():  # one chunk of just that size: whole or sliced is the same
        if item not in sliced and item.axis is not None and item.fixed == fixed and fixed not in (None, 1):
            raise ShapeError(
                f"input {item.name!r} has {item.rows} rows where {sliced[0].name!r} has {rows}: is it short of "
                f"rows, or the same for every chunk? If the same, say batch_axes={{{item.name!r}: None}}"
            )
    return Batch(rows, fixed, tuple(item.axis if item in sliced else None for item in inputs))


def _look(spec: TensorSpec | None, name: str, array: Array, declared: BatchAxes) -> _Row:
    """Read one input; raises ShapeError where its shape does not fit the spec."""
    axis = declared.get(name, 0 if array.ndim else None)
    if axis is not None and not -array.ndim <= axis < array.ndim:
        raise ShapeError(f"batch_axes says axis {axis} of {name!r}, but its shape {array.shape} has no such axis")
    if axis is not None:
        axis %= array.ndim
    _check_shape(spec, name, array, axis)
    if axis is None:
        return _Row(name, None, 0)
    dim = spec.shape[axis] if spec is not None else None
    fixed, word = (dim, None) if isinstance(dim, int) else (None, dim)
    return _Row(name, axis, array.shape[axis], fixed, word, name in declared)


def _check_shape(spec: TensorSpec | None, name: str, array: Array, batch_axis: int | None) -> None:
    """Check the number of axes, and all sizes that the model fixes but for the batch axis."""
    if spec is None:
        return
    if len(spec.shape) == array.ndim and all(
        not isinstance(want, int) or want == have or i == batch_axis
        for i, (want, have) in enumerate(zip(spec.shape, array.shape, strict=True))
    ):
        return
    raise ShapeError(
        f"input {name!r} has shape {array.shape}, the model takes {show_shape(spec.shape)}; only the batch axis "
        f"may differ (axis 0, or what batch_axes={{{name!r}: AXIS}} says)"
    )


def show_shape(shape: Sequence[int | str | None]) -> str:
    """Return a shape as text: ``(batch, 4, ?)``."""
    inner = ", ".join("?" if dim is None else str(dim) for dim in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def _is_sliced(item: _Row, inputs: Sequence[_Row]) -> bool:
    """Whether an input holds the call's rows, rather than being given whole to every chunk."""
    if item.axis is None:
        return False
    if item.declared:
        return True
    if item.fixed is not None:
        return item.rows != item.fixed
    # One row on an open axis that the model calls otherwise than all the others ("steps" beside "batch"): whole.
    others = [other for other in inputs if other is not item and other.axis is not None and other.fixed is None]
    named_otherwise = item.word is not None and all(other.word not in (None, item.word) for other in others)
    return not (item.rows == 1 and others and named_otherwise and any(other.rows != 1 for other in others))


def _agree(sliced: Sequence[_Row]) -> int:
    """Return the number of rows that all sliced inputs have."""
    for item in sliced:
        if item.rows == 0:
            raise ShapeError(f"input {item.name!r} has 0 rows; a call needs at least one")
    if len({item.rows for item in sliced}) > 1:
        counts = ", ".join(f"{item.name!r} has {item.rows}" for item in sliced)
        raise ShapeError(
            f"the inputs disagree about the number of rows: {counts}; if one of them is not part of the batch, "
            "say batch_axes={'its name': None}"
        )
    return sliced[0].rows


def _agree_on_fixed(sliced: Sequence[_Row]) -> int | None:
    """Return how many rows the model takes at a time; None where it takes any number."""
    fixed = {item.fixed for item in sliced if item.fixed is not None}
    if len(fixed) > 1:
        counts = ", ".join(f"{item.fixed} of {item.name!r}" for item in sliced if item.fixed is not None)
        raise ShapeError(
            f"the model takes different numbers of rows at a time ({counts}); if one of these inputs is not part "
            "of the batch, say batch_axes={'its name': None}"
        )
    return fixed.pop() if fixed else None


def cut(rows: int, *, fixed_rows: int | None, chunk_size: int | None, parts: int) -> list[tuple[int, int]]:
    """Cut rows into chunks, in order.

    A model of fixed size gets chunks of that size, of which the last may be short (it is padded later). Else
    they are of ``chunk_size``, or, where that is None, one for each of ``parts`` workers, of which the
    first are one row larger where it does not divide: 10 rows over 4 are 3, 3, 2, 2.

    Returns:
        (first row, row after the last) of each chunk.

    Source: the split rule of :func:`numpy.array_split`.
    """
    size = fixed_rows or chunk_size
    if size is not None:
        return [(start, min(start + size, rows)) for start in range(0, rows, size)]
    parts = min(parts, rows)
    least, larger = divmod(rows, parts)
    starts = [i * least + min(i, larger) for i in range(parts + 1)]
    return list(itertools.pairwise(starts))


def fit_dtype(spec: TensorSpec, array: Array) -> np.dtype[Any]:
    """Return the dtype in which an input is to be written, the model's own.

    What keeps every value is converted: float16 to float32, and integers where all values fit (converters turn
    int64 models into int32 ones). Anything else is an error, never a silent loss.

    Raises:
        ShapeError: the array's values would not survive.
    """
    want = np.dtype(spec.dtype)
    is_wide_integer = array.dtype.kind in "iu" and array.dtype.itemsize == 8  # numpy calls int64 -> float64 safe
    if array.dtype == want or (np.can_cast(array.dtype, want, "safe") and not (is_wide_integer and want.kind == "f")):
        return want
    if array.dtype.kind in "iu" and (want.kind in "iu" or want == np.float64):
        least, most = (-(2**53), 2**53) if want.kind == "f" else (np.iinfo(want).min, np.iinfo(want).max)
        if array.size == 0 or (array.min() >= least and array.max() <= most):
            return want
        raise ShapeError(
            f"input {spec.name!r} holds values from {array.min()} to {array.max()}, which do not fit the model's {want}"
        )
    raise ShapeError(
        f"input {spec.name!r} is {array.dtype}, the model takes {want}: convert it with .astype({str(want)!r})"
    )
