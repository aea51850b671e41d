"""Where a call's arrays lie for threads: inputs where the caller has them, outputs in the array that it gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ascend_parallel.backends.allocator import Allocator
from ascend_parallel.backends.call import Placement
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.plan import Plan, Region
from ascend_parallel.batching.rows import copy_rows


class LocalPlacement(Placement):
    """The arrays of one call, which its threads read and write in place.

    An input is copied only where an engine could not take it as it is: a chunk that is padded, or not contiguous, and
    an array of another dtype, byte order or alignment.
    """

    def __init__(self, plan: Plan, arrays: Sequence[Array], allocator: Allocator) -> None:
        self._plan = plan
        self._arrays = [_as_region(region, array) for region, array in zip(plan.inputs, arrays, strict=True)]
        self._allocator = allocator
        self._regions: list[Region] = []
        self._whole: dict[str, Array] = {}
        self.place_outputs()

    def write(self, index: int) -> None:
        """Do nothing: a thread reads its rows where they lie."""

    def place_outputs(self) -> None:
        """Take memory for the outputs of the tasks from now on, if their shapes are known by now."""
        regions, size_bytes = self._plan.outputs
        if regions and not self._whole:
            buffer = np.asarray(self._allocator.allocate(size_bytes))
            self._regions = regions
            self._whole = {r.name: np.ndarray(r.shape, r.dtype, buffer, r.offset) for r in regions}

    def outputs(self) -> dict[str, Array]:
        """Return the arrays into which the results of all chunks are written, by name; none if shapes are not known."""
        return self._whole

    def inputs_of(self, index: int) -> list[Array]:
        """Return the inputs of one chunk: C-contiguous, and not writeable."""
        plan = self._plan
        start, stop = plan.chunks[index]
        rows = plan.batch.fixed_rows or stop - start
        return [
            _chunk_of(region, array, start, stop, rows) for region, array in zip(plan.inputs, self._arrays, strict=True)
        ]

    def destinations_of(self, index: int) -> dict[str, Array]:
        """Return the arrays into which one chunk's outputs are to be written, by name; none if shapes are not known."""
        whole = self._whole  # replaced as a whole by another thread
        if not self._plan.is_sliced:
            return dict(whole)
        start = self._plan.chunks[index][0]
        stop = start + self._plan.fed_rows(index)
        return {name: array[start:stop] for name, array in whole.items()}


def _as_region(region: Region, array: Array) -> Array:
    """Return an input in the dtype of its region; the caller's own array where it has that dtype."""
    if array.dtype.str == region.dtype and array.flags.aligned:
        return array
    return array.astype(region.dtype)  # the values were checked before: none is lost


def _chunk_of(region: Region, array: Array, start: int, stop: int, rows: int) -> Array:
    axis = region.axis
    chunk: Array
    if axis is None:
        chunk = array.view()
    elif rows != stop - start:
        chunk = np.empty(region.whole_shape(rows), array.dtype)
        copy_rows(chunk, array, axis, start, stop)
    else:
        chunk = array[(slice(None),) * axis + (slice(start, stop),)]
    if not chunk.flags.c_contiguous:
        chunk = chunk.copy()
    chunk.flags.writeable = False
    return chunk
