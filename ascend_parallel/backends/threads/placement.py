"""Where a call's arrays lie for threads: inputs where the caller has them, outputs in the array that it gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ascend_parallel.backends.allocator import Allocator
from ascend_parallel.backends.call import Placement
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.plan import Plan
from ascend_parallel.batching.rows import copy_rows

#: Outputs of so many bytes are written into one array, in blocks that are used again: the heap returns memory of this
#: size to the system each time, and to touch it anew takes longer than many models compute. Smaller outputs are joined
#: from those of the chunks, which takes less time than to give each engine its part of an array.
_LEAST_PLACED_BYTES = 64 << 10


def empty_inputs(plan: Plan, allocator: Allocator) -> list[Array]:
    """Return an array for each input of a plan, in the model's order, for the caller to write."""
    return [allocator.empty(region.whole_shape(plan.span), region.dtype) for region in plan.inputs]


class LocalPlacement(Placement):
    """The arrays of one call, which its threads read and write in place.

    An input is copied only where an engine could not take it as it is: a chunk that is padded, or not contiguous, and
    an array of another dtype, byte order or alignment.
    """

    def __init__(self, plan: Plan, arrays: Sequence[Array], allocator: Allocator) -> None:
        self._plan = plan
        self._arrays = arrays
        if plan.must_fit:  # the values were checked before: none is lost
            self._arrays = [a.astype(r.dtype, copy=False) for r, a in zip(plan.inputs, arrays, strict=True)]
        self._allocator = allocator
        self._whole: dict[str, Array] = {}
        self.place_outputs()

    def write(self, index: int) -> None:
        """Do nothing: a thread reads its rows where they lie."""

    def place_outputs(self) -> None:
        """Take memory for the outputs of the tasks from now on, if they are large, and their shapes known by now."""
        regions, size_bytes = self._plan.outputs
        if regions and size_bytes < _LEAST_PLACED_BYTES:
            self.needs_shapes = False
        elif regions and not self._whole:
            buffer = np.asarray(self._allocator.allocate(size_bytes))
            self._whole = {r.name: np.ndarray(r.shape, r.dtype, buffer, r.offset) for r in regions}

    def outputs(self) -> dict[str, Array]:
        """Return the arrays into which the results of all chunks are written, by name; none if they are not placed."""
        return self._whole

    def inputs_of(self, index: int) -> list[Array]:
        """Return the inputs of one chunk: C-contiguous, and not writeable."""
        plan = self._plan
        start, stop = plan.chunks[index]
        is_padded = plan.batch.fixed_rows not in (None, stop - start)
        chunks = []
        for region, array in zip(plan.inputs, self._arrays, strict=True):
            if region.axis is None:
                chunk = array.view()
            elif is_padded:
                chunk = np.empty(region.whole_shape(plan.batch.fixed_rows or 0), array.dtype)
                copy_rows(chunk, array, region.axis, start, stop)
            elif region.axis == 0:
                chunk = array[start:stop]
            else:
                chunk = array[(slice(None),) * region.axis + (slice(start, stop),)]
            flags = chunk.flags
            if not (flags.c_contiguous and flags.aligned):
                chunk = chunk.copy()
                flags = chunk.flags
            flags.writeable = False
            chunks.append(chunk)
        return chunks

    def destinations_of(self, index: int) -> dict[str, Array]:
        """Return the arrays into which one chunk's outputs are to be written, by name; none if they are not placed."""
        whole = self._whole  # replaced as a whole by another thread
        if not whole or not self._plan.is_sliced or len(self._plan.chunks) == 1:
            return whole
        start = self._plan.chunks[index][0]
        stop = start + self._plan.fed_rows(index)
        return {name: array[start:stop] for name, array in whole.items()}
