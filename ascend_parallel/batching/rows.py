"""Rows of an input copied to where a chunk is wanted, padding included."""

from __future__ import annotations

import numpy as np

from .batch import Array


def copy_rows(target: Array, source: Array, axis: int | None, start: int, stop: int) -> None:
    """Copy some rows of an input, or, where it is not sliced, the whole.

    The last row is repeated to fill what the target has more: zeros would make NaN in some models' attention. The dtype
    was checked before: no value is lost, though assignment casts whatever it is given.

    Args:
        target: where the rows go; a chunk of the model's.
        source: the whole input.
        axis: the batch axis; None where the input is not sliced.
        start: the first row.
        stop: the row after the last.
    """
    if axis is None:
        target[...] = source
    elif axis == 0 and len(target) == stop - start:
        target[...] = source[start:stop]
    else:
        _copy_and_pad(np.moveaxis(target, axis, 0), np.moveaxis(source, axis, 0), start, stop)


def _copy_and_pad(target: Array, source: Array, start: int, stop: int) -> None:
    target[: stop - start] = source[start:stop]
    target[stop - start :] = source[stop - 1 : stop]
