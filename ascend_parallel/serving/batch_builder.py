"""How a request lies in the model's batch, and the call that computes several together."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from ascend_parallel.backends.backend import Backend
from ascend_parallel.backends.call import Placement
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.join import Rows, find_rows, join_key, stand_in
from ascend_parallel.batching.model import Model
from ascend_parallel.batching.plan import Plan
from ascend_parallel.errors import ShapeError, TooLargeError

from .request import LARGE_BYTES, NO_ROWS, InferRequest

#: Shapes of requests that are remembered, and plans of batches likewise.
_MAX_KNOWN = 1024


class BatchBuilder:
    """Looks at the inputs of requests, and writes those of a batch to one block of memory."""

    def __init__(self, backend: Backend, model: Model, max_request_rows: int) -> None:
        """Take who computes, the model as it plans batches that are one task, and a bound of one request's rows."""
        self._max_request_rows = max_request_rows
        self._backend = backend
        self._model = model
        self._names = None if model.inputs is None else tuple([spec.name for spec in model.inputs])
        self._known_shapes: dict[Any, tuple[Rows, int]] = {}
        self._last_template: tuple[object, tuple[Rows, int]] = (None, (NO_ROWS, 0))
        self._keys: dict[Hashable, int] = {}
        self._next_key = itertools.count(1)
        self._plans: dict[tuple[int, int], Plan] = {}

    def look_at(self, request: InferRequest) -> None:
        """Put the inputs of a request in the model's order, and find its rows and what it can be joined with.

        Raises:
            ShapeError: its inputs do not fit the model.
            TooLargeError: it has too many rows.
        """
        template, known = self._last_template
        if template is None or template is not request.template:
            known = self._look_at_inputs(request)
        layout, request.key = known
        request.layout = layout
        request.rows = layout.rows
        if not layout.is_whole:
            request.key = self._number(join_key(request.inputs, layout))

    def _look_at_inputs(self, request: InferRequest) -> tuple[Rows, int]:
        """Put the inputs in order; return how rows lie in them, and the key where all hold rows; raises ShapeError."""
        is_in_order = request.names == self._names
        if not is_in_order:
            request.names, request.inputs = self._model.in_order(_by_name(request, request.inputs))
        shapes = tuple([(array.dtype, array.shape) for array in request.inputs])
        known = self._known_shapes.get((request.names, shapes)) or self._look_at_shapes(request, shapes)
        if is_in_order:
            self._last_template = request.template, known
        return known

    def _look_at_shapes(self, request: InferRequest, shapes: Hashable) -> tuple[Rows, int]:
        """Return the same for inputs of shapes that are new."""
        _check_dtypes(self._model, request)
        layout = find_rows(self._model.inputs, request.names, request.inputs, self._model.batch_axes)
        if layout.rows > self._max_request_rows:
            raise TooLargeError(
                f"the request has {layout.rows} rows; the server takes at most {self._max_request_rows} a request, "
                "which max_batch_size raises"
            )
        self._model.plan(_by_name(request, request.inputs))  # raises where they do not fit
        known = layout, self._number(join_key(request.inputs, layout))
        _keep(self._known_shapes, (request.names, shapes), known)
        return known

    def _number(self, key: Hashable) -> int:
        """Return a number that stands for a key, which is a large tuple."""
        number = self._keys.get(key)
        if number is None:
            number = next(self._next_key)
            _keep(self._keys, key, number)
        return number

    def open(self, requests: Sequence[InferRequest]) -> tuple[Plan, Placement]:
        """Return how a batch of requests is to be done, and where its inputs now lie.

        Raises:
            ShapeError: an input does not fit the model after all.
        """
        first = requests[0]
        if len(requests) == 1:
            plan = self._plan_alone(first)
        else:
            plan = self._plan(first, first.layout.fixed_rows or sum([request.rows for request in requests]))
        if plan is None:
            plan, arrays = self._model.plan(_by_name(first, first.inputs))
            return plan, self._backend.place(plan, arrays, in_place=True)
        placement, targets = self._backend.place_rows(plan)
        for position, axis in enumerate(first.layout.axes):
            _join(targets[position], axis, [request.inputs[position] for request in requests])
        return plan, placement

    def _plan_alone(self, request: InferRequest) -> Plan | None:
        """Return the plan of one request whose rows are copied as those of a batch; None for other requests.

        These lie in shared memory already, are split, or have inputs without rows.
        """
        if not request.layout.is_whole or request.inputs[0].nbytes >= LARGE_BYTES:
            return None
        plan = self._plan(request, request.rows)
        return plan if len(plan.chunks) == 1 else None

    def _plan(self, request: InferRequest, rows: int) -> Plan:
        """Return the plan of a batch of so many rows like a request's."""
        key = (request.key, rows)
        plan = self._plans.get(key)
        if plan is None:
            arrays = [stand_in(a, axis, rows) for a, axis in zip(request.inputs, request.layout.axes, strict=True)]
            plan, _ = self._model.plan(_by_name(request, arrays))
            _keep(self._plans, key, plan)
        return plan


def _join(target: Array, axis: int | None, parts: Sequence[Array]) -> None:
    """Copy the rows of several requests one behind the other; repeat the last where the target has more rows."""
    if axis is None:
        target[...] = parts[0]
        return
    rows = sum([part.shape[axis] for part in parts])
    if rows == target.shape[axis]:
        np.concatenate(parts, axis, out=target)
        return
    target = np.moveaxis(target, axis, 0)
    np.concatenate([np.moveaxis(part, axis, 0) for part in parts], out=target[:rows])
    target[rows:] = target[rows - 1]


def _check_dtypes(model: Model, request: InferRequest) -> None:
    """Refuse other dtypes than the model's: rows that are joined are not looked at one by one."""
    for spec, array in zip(model.inputs or (), request.inputs, strict=model.inputs is not None):
        if array.dtype != np.dtype(spec.dtype):
            raise ShapeError(f"input {spec.name!r} is {array.dtype}, the model takes {spec.dtype}")


def _by_name(request: InferRequest, arrays: Sequence[Array]) -> dict[str, Array]:
    return dict(zip(request.names, arrays, strict=True))


def _keep(known: dict[Any, Any], key: Any, value: Any) -> None:
    if len(known) >= _MAX_KNOWN:
        known.clear()
    known[key] = value
