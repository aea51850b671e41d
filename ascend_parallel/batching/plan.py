"""How calls of one kind are done: made once for inputs of given names, shapes and dtypes, then used again.

A plan says which rows make a task, and where inputs and outputs lie in shared memory. It holds no arrays.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ascend_parallel.worker.memory import align

from .batch import Array, Batch, BatchAxes


class Region(NamedTuple):
    """Where one input or output lies in its call's block.

    Attributes:
        name: of the input or output.
        dtype: as numpy's ``dtype.str``.
        shape: of the whole; of an input as it is given, of an output with all rows, padding included.
        axis: the batch axis; None where it is not sliced.
        offset: bytes from the block's start.
        row_bytes: bytes of a row; chunk after chunk lies one behind the other, each contiguous.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axis: int | None
    offset: int
    row_bytes: int

    def whole_shape(self, span: int) -> tuple[int, ...]:
        """Return the shape with so many rows."""
        if self.axis is None:
            return self.shape
        return (*self.shape[: self.axis], span, *self.shape[self.axis + 1 :])


class Plan:
    """How calls of one kind are done.

    Attributes:
        model_name: the model that they run.
        names: the inputs' names, for a model that does not tell its own; None for a list.
        as_list: whether the caller gave a list, and gets one.
        batch: which axes hold the rows, and how many there are.
        batch_axes: what the user declared, of outputs too.
        chunks: (first row, row after the last) of each task.
        span: rows of all chunks, padding included.
        inputs: where they lie, in the model's order.
        input_bytes: the size of the block that holds them.
        must_have: see :class:`Model`.
        fixed_outputs: see :class:`Model`; none where the model takes a fixed number of rows.
        layouts: what a backend remembers of the blocks of memory that it used for this plan.
        must_fit: whether values must be looked at in each call, as they are converted.
        signature: what the shapes of a chunk's outputs follow from: all of the inputs but how many rows there are.
        seen: the arguments of the last :meth:`learn`, of all plans of this signature.
        outputs: where they lie, by the shapes that were seen, and the size of the block that holds them; empty
            where shapes are not known, or cannot be. Replaced as a whole, as other threads read it.
    """

    def __init__(
        self,
        model_name: str,
        names: Sequence[str],
        arrays: Sequence[Array],
        dtypes: Sequence[np.dtype[Any]],
        batch: Batch,
        chunks: list[tuple[int, int]],
        batch_axes: BatchAxes,
        *,
        as_list: bool,
        tell_names: bool,
    ) -> None:
        self.model_name = model_name
        self.names = tuple(names) if tell_names else None
        self.as_list = as_list
        self.batch = batch
        self.batch_axes = batch_axes
        self.chunks = chunks
        self.span = len(chunks) * (batch.fixed_rows or 0) or batch.rows
        self.is_sliced = any(axis is not None for axis in batch.axes)
        self.inputs: list[Region] = []
        self.input_bytes = 0
        for name, array, dtype, axis in zip(names, arrays, dtypes, batch.axes, strict=True):
            region = _input_region(name, array.shape, dtype, axis, self.input_bytes)
            self.inputs.append(region)
            self.input_bytes += _size_bytes(region, self.span)
        self.signature = tuple((r.dtype, r.axis, r.whole_shape(batch.fixed_rows or 0)) for r in self.inputs)
        self.seen: dict[str, Any] = {}
        self.must_fit = any(array.dtype != dtype for array, dtype in zip(arrays, dtypes, strict=True))
        self.must_have: Sequence[str] = ()
        self.fixed_outputs: Container[str] = ()
        self.layouts: dict[Any, Any] = {}
        self.outputs: tuple[list[Region], int] = ([], 0)

    def fed_rows(self, index: int) -> int:
        """Return the rows that the worker of a chunk gets, padding included."""
        start, stop = self.chunks[index]
        return self.batch.fixed_rows or stop - start

    def learn(self, rows: int, seen: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """Take the outputs of a chunk of ``rows`` rows, name -> (dtype, shape), as those of all.

        Then all workers write into one block, each at its rows' offset, and the whole lies there in the end. If
        an output has its rows elsewhere than along axis 0, they are put together afterwards instead.
        """
        self.seen.update(rows=rows, seen=seen)
        regions: list[Region] = []
        size_bytes = 0
        for name, (dtype, shape) in seen.items():
            region = self._output_region(name, dtype, shape, rows, size_bytes)
            if region is None:
                regions, size_bytes = [], 0
                break
            regions.append(region)
            size_bytes += _size_bytes(region, self.span)
        if regions != self.outputs[0]:
            self.outputs = (regions, size_bytes)

    def _output_region(self, name: str, dtype: str, shape: tuple[int, ...], rows: int, offset: int) -> Region | None:
        itemsize = np.dtype(dtype).itemsize
        if not self.is_sliced:
            return Region(name, dtype, shape, None, offset, 0)
        if self.batch_axes.get(name, 0) != 0 or not shape or shape[0] != rows or name in self.fixed_outputs:
            return None
        return Region(name, dtype, (self.span, *shape[1:]), 0, offset, _count(shape[1:]) * itemsize)


def _input_region(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], axis: int | None, offset: int) -> Region:
    row_bytes = 0 if axis is None else _count(shape) // shape[axis] * dtype.itemsize
    return Region(name, dtype.str, shape, axis, offset, row_bytes)


def _size_bytes(region: Region, span: int) -> int:
    if region.axis is not None:
        return align(region.row_bytes * span)
    return align(_count(region.shape) * np.dtype(region.dtype).itemsize)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
