"""Calibration data: .npz files, each with the inputs of one call of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ascend_parallel.errors import UsageError
from ascend_parallel.files import read_arrays
from ascend_parallel.worker.engines import TensorSpec

from .shapes import format_shape

__all__ = ["check_samples", "read_samples"]

Arrays = dict[str, Any]
OPTION = "--calibration"


def check_samples(files: Sequence[Path], specs: Sequence[TensorSpec]) -> None:
    """Check that each file has all inputs of the model, with their dtypes and shapes, and nothing else.

    Raises:
        UsageError: if one does not; the message names the file and the input.
    """
    for file in files:
        if files.count(file) > 1:
            raise UsageError(f"{OPTION} names {file} twice")
        arrays = _read(file)
        for spec in specs:
            _check_array(file, spec, arrays)
        unknown = sorted(set(arrays) - {spec.name for spec in specs})
        if unknown:
            names = ", ".join(spec.name for spec in specs)
            raise UsageError(f"{OPTION} {file} has {unknown[0]!r}, which is no input; the model's inputs are {names}")


def read_samples(files: Sequence[Path]) -> Iterator[Arrays]:
    """Yield the arrays of each file, one after the other: all together may not fit into memory."""
    yield from map(_read, files)


def _read(file: Path) -> Arrays:
    return dict(read_arrays(OPTION, file))


def _check_array(file: Path, spec: TensorSpec, arrays: Arrays) -> None:
    what = f"{OPTION} {file}"
    if spec.name not in arrays:
        has = f"it has {', '.join(arrays)}" if arrays else "it is empty"
        raise UsageError(f"{what} has no {spec.name!r}, an input of the model ({has})")
    array = arrays[spec.name]
    if array.dtype != np.dtype(spec.dtype):
        raise UsageError(
            f"{what} has {spec.name!r} as {array.dtype}; the model takes {spec.dtype}: save it with "
            f"array.astype({spec.dtype!r})"
        )
    fits = len(array.shape) == len(spec.shape) and all(
        wanted == size or not isinstance(wanted, int) for wanted, size in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"{what} has {spec.name!r} of shape {format_shape(array.shape)}; the model takes {format_shape(spec.shape)}"
        )
    if not array.size:
        raise UsageError(f"{what} has {spec.name!r} of shape {format_shape(array.shape)}, without an element")
