"""Inputs written to shared memory, chunk by chunk, and places kept for the outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.plan import Plan, Region
from ascend_parallel.worker.memory import SharedArray
from ascend_parallel.worker.protocol import encode_part

from .allocator import Allocation, Allocator


class Scatter:
    """The shared memory of one call.

    Attributes:
        leases: every block that the call's tasks name.
        inputs: how messages name the inputs; see ``worker/protocol.py``.
        places: how they name the places of the outputs.
    """

    def __init__(self, plan: Plan, arrays: Sequence[Array], pool: Allocator, *, in_place: bool) -> None:
        """Take the memory; nothing is copied yet.

        Args:
            plan: how the call is done.
            arrays: its inputs.
            pool: where blocks come from.
            in_place: whether inputs that lie in shared memory already are read where they are; then the caller
                must not change them before the call is over.
        """
        self._plan = plan
        self._arrays = arrays
        self._pool = pool
        self._whole: dict[str, Array] = {}
        shared = [_find_shared(r, a, plan.span, in_place) for r, a in zip(plan.inputs, arrays, strict=True)]
        block = None if all(shared) else pool.lease(plan.input_bytes)
        self._targets, self.inputs = _input_form(plan, block, shared)
        self.leases = [place[0] for place in shared if place is not None]
        if block is not None:
            self.leases.append(block)
        self.places = _NO_PLACES
        self._regions: list[Region] = []
        self._results: Allocation | None = None
        self.place_outputs()

    def write_chunks(self) -> Iterator[int]:
        """Copy the inputs in; yield each chunk's number when it is there.

        So the first worker starts while the rows of the next are still being copied.
        """
        plan = self._plan
        for index, (start, stop) in enumerate(plan.chunks):
            rows = plan.batch.fixed_rows or stop - start
            for position, target in self._targets:
                axis = plan.inputs[position].axis
                if axis is not None or index == 0:
                    _write(target.rows(start, rows), self._arrays[position], axis, start, stop)
            yield index
        self._arrays = ()
        self.outputs()  # made now, while the workers are at it

    def place_outputs(self) -> None:
        """Keep places for the outputs of the tasks from now on, if their shapes are known by now."""
        regions, size_bytes = self._plan.outputs
        if self._results is None and regions:
            self._regions = regions
            self._results = self._pool.lease(size_bytes)
            self.leases.append(self._results)
            self.places = _output_form(self._plan, regions, self._results)

    def outputs(self) -> dict[str, Array]:
        """Return the arrays in which the results of all chunks are wanted, by name; none if shapes are not known."""
        if self._results is not None and not self._whole:
            buffer = np.asarray(self._results)
            self._whole = {r.name: np.ndarray(r.shape, r.dtype, buffer, r.offset) for r in self._regions}
        return self._whole


#: An input that lies in shared memory already: the block, and where in it.
_Shared = tuple[Allocation, int]
#: What is to be written, by its position among the inputs, and how messages name all inputs.
_InputForm = tuple[list[tuple[int, SharedArray]], bytes]
#: Forms that a plan keeps: those of all blocks that are in use in turn, as the worker does (see ``worker/loop.py``).
_MAX_FORMS = 2048
_NO_PLACES = encode_part([])


def _input_form(plan: Plan, block: Allocation | None, shared: Sequence[_Shared | None]) -> _InputForm:
    """Return what a plan's inputs are in a block, from the plan's memory where it has been there before."""
    if block is None or any(shared):
        return _make_input_form(plan, block, shared)
    key = ("inputs", *block.at(0))
    form: _InputForm | None = plan.forms.get(key)
    if form is None:
        form = _make_input_form(plan, block, shared)
        _keep(plan, key, form)
    return form


def _make_input_form(plan: Plan, block: Allocation | None, shared: Sequence[_Shared | None]) -> _InputForm:
    targets = []
    references = []
    for position, region in enumerate(plan.inputs):
        place = shared[position]
        lease, offset = place or (block, region.offset)
        assert lease is not None
        segment, at = lease.at(offset)
        references.append((segment, at, region.dtype, region.whole_shape(plan.span), region.axis))
        if place is None:
            stretch = SharedArray(lease.segment.map, at, region.dtype, region.whole_shape(plan.span), region.axis, True)
            targets.append((position, stretch))
    return targets, encode_part((plan.model_name, plan.names, references))


def _output_form(plan: Plan, regions: Sequence[Region], block: Allocation) -> bytes:
    """Return how messages name the places of a plan's outputs in a block."""
    key = ("outputs", *block.at(0))
    known: tuple[Sequence[Region], bytes] | None = plan.forms.get(key)
    if known is None or known[0] is not regions:  # a new block, or other shapes were seen since
        form = encode_part([(r.name, (*block.at(r.offset), r.dtype, r.shape, r.axis)) for r in regions])
        known = (regions, form)
        _keep(plan, key, known)
    return known[1]


def _keep(plan: Plan, key: Any, form: Any) -> None:
    if len(plan.forms) >= _MAX_FORMS:
        plan.forms.clear()
    plan.forms[key] = form


def _write(target: Array, source: Array, axis: int | None, start: int, stop: int) -> None:
    """Write some rows of an input, or, where it is not sliced, the whole.

    The dtype was checked before: no value is lost, though assignment casts whatever it is given.
    """
    if axis is None:
        target[...] = source
    elif axis == 0 and len(target) == stop - start:
        target[...] = source[start:stop]
    else:
        _write_rows(np.moveaxis(target, axis, 0), np.moveaxis(source, axis, 0), start, stop)


def _write_rows(target: Array, source: Array, start: int, stop: int) -> None:
    """Write rows along axis 0; what the target has more is filled by repeating the last.

    Zeros would not do as padding: they make NaN in some models' attention.
    """
    target[: stop - start] = source[start:stop]
    target[stop - start :] = source[stop - 1 : stop]


def _find_shared(region: Region, array: Array, span: int, in_place: bool) -> tuple[Allocation, int] | None:
    """Return the block in which an input lies already, and where, if its chunks can be named as they lie."""
    if array.base is None or array.dtype.str != region.dtype or not array.flags.c_contiguous or array.size == 0:
        return None
    if region.axis is not None and (region.axis != 0 or span != array.shape[0]):
        return None  # other than along axis 0, or padded
    lease = find_allocation(array)
    if lease is None or not (in_place or lease.is_callers):
        return None
    return lease, array.ctypes.data - lease.address


def find_allocation(array: Array) -> Allocation | None:
    """Return the block that an array lies in; None where it lies elsewhere."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, Allocation) else None
