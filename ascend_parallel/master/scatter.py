"""Inputs written to shared memory, chunk by chunk, and places kept for the outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from ascend_parallel.worker.protocol import encode_part

from .batch import Array
from .plan import Plan, Region
from .pool import BlockPool, Lease


class InputForm(NamedTuple):
    """A plan's inputs in a given block: what is to be written where, and how messages name it, chunk by chunk."""

    targets: list[list[tuple[int, Array]]]
    parts: list[bytes]


class Scatter:
    """The shared memory of one call.

    Attributes:
        leases: every block that the call's tasks name.
    """

    def __init__(self, plan: Plan, arrays: Sequence[Array], pool: BlockPool, *, in_place: bool) -> None:
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
        self._whole: dict[str, Array] | None = None
        shared = [_find_shared(r, a, plan.span, in_place) for r, a in zip(plan.inputs, arrays, strict=True)]
        self._inputs = None if all(shared) else pool.lease(plan.input_bytes)
        self._form = _input_form(plan, self._inputs, shared)
        self.leases = [place[0] for place in shared if place]
        if self._inputs is not None:
            self.leases.append(self._inputs)
        self._regions, size_bytes = plan.outputs
        self._results = pool.lease(size_bytes) if self._regions else None
        if self._results is not None:
            self.leases.append(self._results)

    def write_chunks(self) -> Iterator[tuple[bytes, bytes]]:
        """Copy the inputs in; yield each chunk's inputs and places, as messages name them, when it is there.

        So the first worker starts while the rows of the next are still being copied.
        """
        plan = self._plan
        places = _output_form(plan, self._regions, self._results)
        for index, (start, stop) in enumerate(plan.chunks):
            for position, target in self._form.targets[index]:
                _write(target, self._arrays[position], plan.inputs[position].axis, start, stop)
            yield self._form.parts[index], places[index]
        self._arrays = ()
        self.outputs()  # made now, while the workers are at it

    def outputs(self) -> dict[str, Array]:
        """Return the arrays in which the results of all chunks are wanted, by name; none if shapes are not known."""
        if self._whole is None:
            buffer = None if self._results is None else np.asarray(self._results)
            self._whole = {r.name: np.ndarray(r.shape, r.dtype, buffer, r.offset) for r in self._regions}
        return self._whole


#: Forms that a plan keeps; more blocks than this in turn are rare, and forms are quickly made anew.
_MAX_FORMS = 64


def _input_form(plan: Plan, lease: Lease | None, shared: Sequence[tuple[Lease, int] | None]) -> InputForm:
    """Return what a plan's inputs look like in a block, from the plan's memory where it has been there before."""
    if lease is None or any(shared):
        return _make_input_form(plan, lease, shared)
    key = ("inputs", *lease.at(0))
    form = plan.forms.get(key)
    if form is None:
        form = _make_input_form(plan, lease, shared)
        _keep(plan, key, form)
    return cast(InputForm, form)


def _make_input_form(plan: Plan, lease: Lease | None, shared: Sequence[tuple[Lease, int] | None]) -> InputForm:
    form = InputForm([], [])
    for index, (start, _) in enumerate(plan.chunks):
        rows = plan.fed_rows(index)
        references = []
        targets = []
        for position, region in enumerate(plan.inputs):
            shape = region.chunk_shape(rows)
            place, offset = shared[position] or (lease, region.offset)
            assert place is not None
            offset += start * region.row_bytes
            references.append((*place.at(offset), region.dtype, shape))
            if shared[position] is None and (region.axis is not None or index == 0):
                targets.append((position, np.ndarray(shape, region.dtype, place.segment.map, place.at(offset)[1])))
        form.targets.append(targets)
        form.parts.append(encode_part((plan.model_name, plan.names, references)))
    return form


def _output_form(plan: Plan, regions: Sequence[Region], lease: Lease | None) -> list[bytes]:
    """Return how messages name the places of a plan's outputs in a block, chunk by chunk."""
    if lease is None:
        return [_NO_PLACES] * len(plan.chunks)
    key = ("outputs", *lease.at(0))
    known_regions, form = plan.forms.get(key, (None, None))
    if known_regions is not regions:  # new block, or other shapes were seen since
        form = []
        for index, (start, _) in enumerate(plan.chunks):
            rows = plan.fed_rows(index)
            places = [
                (r.name, (*lease.at(r.offset + start * r.row_bytes), r.dtype, r.chunk_shape(rows))) for r in regions
            ]
            form.append(encode_part(places))
        _keep(plan, key, (regions, form))
    return cast("list[bytes]", form)


def _keep(plan: Plan, key: Any, form: Any) -> None:
    if len(plan.forms) >= _MAX_FORMS:
        plan.forms.clear()
    plan.forms[key] = form


_NO_PLACES = encode_part([])


def _write(target: Array, source: Array, axis: int | None, start: int, stop: int) -> None:
    """Write some rows of an input, or, where it is not sliced, the whole.

    The dtype was checked before: no value is lost, whatever numpy's casting rule.
    """
    if axis is None:
        np.copyto(target, source, "unsafe")
    elif axis == 0 and len(target) == stop - start:
        np.copyto(target, source[start:stop], "unsafe")
    else:
        _write_rows(np.moveaxis(target, axis, 0), np.moveaxis(source, axis, 0), start, stop)


def _write_rows(target: Array, source: Array, start: int, stop: int) -> None:
    """Write rows along axis 0; what the target has more is filled by repeating the last.

    Zeros would not do as padding: they make NaN in some models' attention.
    """
    np.copyto(target[: stop - start], source[start:stop], "unsafe")
    np.copyto(target[stop - start :], source[stop - 1 : stop], "unsafe")


def _find_shared(region: Region, array: Array, span: int, in_place: bool) -> tuple[Lease, int] | None:
    """Return the block in which an input lies already, and where, if its chunks can be named as they lie."""
    if array.base is None or array.dtype.str != region.dtype or not array.flags.c_contiguous or array.size == 0:
        return None
    if region.axis is not None and (region.axis != 0 or span != array.shape[0]):
        return None  # other than along axis 0, or padded
    lease = find_lease(array)
    if lease is None or not (in_place or lease.is_callers):
        return None
    return lease, array.ctypes.data - lease.address


def find_lease(array: Array) -> Lease | None:
    """Return the block that an array lies in; None where it lies elsewhere."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, Lease) else None
