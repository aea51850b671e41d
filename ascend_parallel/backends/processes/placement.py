"""Where a call's arrays lie in shared memory: inputs are copied there, chunk by chunk; outputs are written there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ascend_parallel.backends.allocator import Allocation, Allocator
from ascend_parallel.backends.call import Placement
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.plan import Plan, Region
from ascend_parallel.batching.rows import copy_rows
from ascend_parallel.worker.memory import SharedArray
from ascend_parallel.worker.protocol import encode_chunk, encode_part

#: Where an input lies that is in shared memory already: the block, and the offset in it.
_Shared = tuple[Allocation, int]
#: Layouts that a plan keeps: those of all blocks that are in use in turn, as the worker does (see ``worker/loop.py``).
_MAX_LAYOUTS = 4096
_NO_DESTINATIONS = encode_part([])


class _InputLayout:
    """What a plan's inputs are in one block.

    Attributes:
        targets: what is copied there: the position among the inputs, and the array.
        descriptors: the encoding of all inputs; see ``worker/protocol.py``.
        chunks: destinations -> the encoding of each chunk.
    """

    __slots__ = ("chunks", "descriptors", "targets")

    def __init__(self, plan: Plan, block: Allocation | None, shared: Sequence[_Shared | None]) -> None:
        self.targets: list[tuple[int, SharedArray]] = []
        self.chunks: dict[bytes, list[bytes]] = {}
        descriptors = []
        for position, region in enumerate(plan.inputs):
            found = shared[position]
            allocation, offset = found or (block, region.offset)
            assert allocation is not None
            segment, at = allocation.at(offset)
            shape = region.whole_shape(plan.span)
            descriptors.append((segment, at, region.dtype, shape, region.axis))
            if found is None:
                target = SharedArray(allocation.segment.map, at, region.dtype, shape, region.axis, True)
                self.targets.append((position, target))
        self.descriptors = encode_part((plan.model_name, plan.names, descriptors))

    def encode_chunks(self, plan: Plan, destinations: bytes) -> list[bytes]:
        """Return the encoding of each chunk."""
        starts = [(start, plan.fed_rows(index)) for index, (start, _) in enumerate(plan.chunks)]
        chunks = [encode_chunk(self.descriptors, destinations, start, rows) for start, rows in starts]
        if len(self.chunks) >= _MAX_CHUNK_LISTS:
            self.chunks.clear()
        self.chunks[destinations] = chunks
        return chunks


#: Blocks of outputs with which the chunks of one block of inputs are kept encoded.
_MAX_CHUNK_LISTS = 8


class SharedPlacement(Placement):
    """The shared memory of one call.

    Attributes:
        allocations: every block that the call's tasks name.
        destinations: the descriptors of the outputs' destinations.
    """

    def __init__(self, plan: Plan, arrays: Sequence[Array], allocator: Allocator, *, in_place: bool) -> None:
        """Take the memory; nothing is copied yet.

        Args:
            plan: how the call is done.
            arrays: its inputs.
            allocator: where blocks come from.
            in_place: whether inputs that lie in shared memory already are read where they are; then the caller
                must not change them before the call is completed.
        """
        self._plan = plan
        self._arrays = arrays
        self._allocator = allocator
        self._whole: dict[str, Array] | None = None
        self._regions: list[Region] = []
        self._results: Allocation | None = None
        self._chunks: list[bytes] | None = None
        self.destinations = _NO_DESTINATIONS
        shared = _find_all_shared(plan, arrays, in_place)
        if shared is None:
            block = allocator.allocate(plan.input_bytes)
            self.allocations = [block]
            self._layout = _find_input_layout(plan, block)
        else:
            self._use_shared(shared)
        self.place_outputs()

    def _use_shared(self, shared: Sequence[_Shared | None]) -> None:
        block = None if all(shared) else self._allocator.allocate(self._plan.input_bytes)
        self.allocations = [found[0] for found in shared if found is not None]
        if block is not None:
            self.allocations.append(block)
        self._layout = _InputLayout(self._plan, block, shared)

    def write(self, index: int) -> None:
        """Copy the rows of one chunk; with the first, the inputs that are not sliced."""
        plan = self._plan
        start, stop = plan.chunks[index]
        rows = plan.batch.fixed_rows or stop - start
        for position, target in self._layout.targets:
            axis = plan.inputs[position].axis
            if axis == 0 and rows == stop - start:
                target.whole[start:stop] = self._arrays[position][start:stop]
            elif axis is not None or index == 0:
                copy_rows(target.rows(start, rows), self._arrays[position], axis, start, stop)
        if index == len(plan.chunks) - 1:
            self._arrays = ()

    def encoded_chunk(self, index: int) -> bytes:
        """Return the encoding of a chunk for a message; see ``worker/protocol.py``."""
        if self._chunks is None:
            layout = self._layout
            self._chunks = layout.chunks.get(self.destinations) or layout.encode_chunks(self._plan, self.destinations)
        return self._chunks[index]

    def place_outputs(self) -> None:
        """Take memory for the outputs of the tasks from now on, if their shapes are known by now."""
        regions, size_bytes = self._plan.outputs
        if regions and self._results is None:
            self._regions = regions
            self._results = self._allocator.allocate(size_bytes)
            self.allocations.append(self._results)
            self.destinations = _find_destinations(self._plan, regions, self._results)
            self._chunks = None

    def outputs(self) -> dict[str, Array]:
        """Return the arrays into which the results of all chunks are written, by name; none if shapes are not known."""
        if self._results is None:
            return {}
        if self._whole is None:
            buffer = np.asarray(self._results)
            self._whole = {r.name: np.ndarray(r.shape, r.dtype, buffer, r.offset) for r in self._regions}
        return self._whole


class RowsPlacement(SharedPlacement):
    """The shared memory of a call of one chunk whose inputs the caller writes itself."""

    def __init__(self, plan: Plan, allocator: Allocator) -> None:
        """Take the memory."""
        super().__init__(plan, (), allocator, in_place=False)

    def targets(self) -> list[Array]:
        """Return where the inputs are to be written."""
        return [target.rows(0, self._plan.span) for _, target in self._layout.targets]

    def write(self, index: int) -> None:
        """Do nothing: the caller has written all."""


def _find_input_layout(plan: Plan, block: Allocation) -> _InputLayout:
    """Return what a plan's inputs are in a block; the plan remembers it for when the block comes again."""
    key = (block.segment.number, block.offset)
    layout: _InputLayout | None = plan.layouts.get(key)
    if layout is None:
        layout = _InputLayout(plan, block, [None] * len(plan.inputs))
        _keep(plan, key, layout)
    return layout


def _find_destinations(plan: Plan, regions: Sequence[Region], block: Allocation) -> bytes:
    """Return the descriptors of a plan's outputs in a block, likewise."""
    key = (block.segment.number, block.offset, "outputs")
    known: tuple[Sequence[Region], bytes] | None = plan.layouts.get(key)
    if known is None or known[0] is not regions:  # a new block, or other shapes were seen since
        descriptors = encode_part([(r.name, (*block.at(r.offset), r.dtype, r.shape, r.axis)) for r in regions])
        known = (regions, descriptors)
        _keep(plan, key, known)
    return known[1]


def _keep(plan: Plan, key: Any, layout: Any) -> None:
    if len(plan.layouts) >= _MAX_LAYOUTS:
        plan.layouts.clear()
    plan.layouts[key] = layout


def _find_all_shared(plan: Plan, arrays: Sequence[Array], in_place: bool) -> list[_Shared | None] | None:
    """Return, for each input, the block in which it lies already; None where none does."""
    for array in arrays:
        if array.base is not None:
            break
    else:
        return None
    shared = [_find_shared(r, a, plan.span, in_place) for r, a in zip(plan.inputs, arrays, strict=True)]
    return shared if any(shared) else None


def _find_shared(region: Region, array: Array, span: int, in_place: bool) -> _Shared | None:
    """Return the block in which an input lies already, and where, if its chunks can be described as they lie."""
    if array.base is None or array.dtype.str != region.dtype or not array.flags.c_contiguous or array.size == 0:
        return None
    if region.axis is not None and (region.axis != 0 or span != array.shape[0]):
        return None  # other than along axis 0, or padded
    allocation = find_allocation(array)
    if allocation is None or not (in_place or allocation.is_read_in_place):
        return None
    if allocation.segment.fd < 0:  # of a runner that is closed: no worker can map it any more
        return None
    return allocation, array.ctypes.data - allocation.address


def find_allocation(array: Array) -> Allocation | None:
    """Return the block that an array lies in; None where it lies elsewhere."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, Allocation) else None
