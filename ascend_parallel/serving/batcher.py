"""Dynamic batching: the requests of many clients joined into batches, one task each.

Everything here runs in the event loop's thread. Requests wait in groups: those of a group can be joined. A batch goes
to a worker as soon as one is free; if a full batch waits, one more goes to each worker in advance. A batch is made of
the group whose first request has waited longest, so that the requests of a group, and of a client, stay in order.

A batch that fails is tried again request by request, so that each failure goes to its own request.
"""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop, Future, TimerHandle
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ascend_parallel.backends.backend import Backend
from ascend_parallel.backends.call import Call, Placement, Task
from ascend_parallel.backends.event_loop import EventLoop
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.join import Rows, find_rows, join_key, split, stand_in, why_not_split
from ascend_parallel.batching.model import Model
from ascend_parallel.batching.plan import Plan
from ascend_parallel.errors import (
    AscendParallelError,
    DeadlineError,
    OverloadedError,
    RunnerClosedError,
    ShapeError,
    WorkerError,
    WorkerTimeout,
)

from .log import logger
from .model_stats import ModelStats
from .request import INF, InferRequest

#: Shapes of requests whose rows are remembered, and plans of batches likewise.
_MAX_KNOWN = 1024


class Limits(NamedTuple):
    """What a batcher keeps to.

    Attributes:
        max_rows: rows of a batch at most. A larger request is split across the workers.
        max_delay_s: how long the first request of a batch waits for others, though a worker is free.
        max_queue: requests that may wait.
        timeout_s: how long a request may wait and be computed, and how long a worker may compute a batch.
    """

    max_rows: int
    max_delay_s: float = 0.0
    max_queue: int = 1024
    timeout_s: float = 60.0


class _Group:
    """Requests that wait and can be joined, in the order of their arrival."""

    __slots__ = ("requests", "rows")

    def __init__(self) -> None:
        self.requests: deque[InferRequest] = deque()
        self.rows = 0

    def take(self, max_rows: int) -> list[InferRequest]:
        """Take the requests of one batch: the first, and the next ones as long as they fit."""
        taken = [self.requests.popleft()]
        rows = taken[0].rows
        while self.requests and rows + self.requests[0].rows <= max_rows:
            taken.append(self.requests.popleft())
            rows += taken[-1].rows
        self.rows -= rows
        return taken


class _BatchCall(Call):
    """The call of one batch; it notes who computed it, and for how long."""

    is_recorded = True

    def __init__(self, plan: Plan, placement: Placement, batcher: Batcher, requests: list[InferRequest]) -> None:
        super().__init__(plan, placement, batcher.take_batch, batcher.event_loop)
        self.timeout_s = batcher.limits.timeout_s
        self.requests = requests
        self.rows = sum([request.rows for request in requests])
        self.compute_ns = 0
        self.worker = ""
        if len(requests) > 1:
            self.max_retries = 0  # it is tried again request by request

    def note_reply(self, task: Task, worker: str, started_ns: int, finished_ns: int) -> None:
        self.compute_ns += finished_ns - started_ns
        self.worker = worker


class Batcher:
    """The queue of one model.

    Attributes:
        limits: what it keeps to.
        event_loop: the loop in whose thread it runs, attached to the backend.
        waiting: requests that wait.
        running: batches that workers have.
    """

    def __init__(
        self,
        backend: Backend,
        model: Model,
        loop: AbstractEventLoop,
        limits: Limits,
        capacity: int,
        stats: ModelStats,
    ) -> None:
        """Prepare; must be called in the loop's thread.

        Args:
            backend: who computes; it is started.
            model: plans batches of up to ``limits.max_rows`` rows as one task.
            loop: the running loop.
            limits: what to keep to.
            capacity: batches that are computed at the same time.
            stats: counts.
        """
        self.limits = limits
        self.event_loop: EventLoop = backend.attach(loop)
        self.waiting = 0
        self.running = 0
        self._backend = backend
        self._model = model
        self._loop = loop
        self._capacity = capacity
        self._stats = stats
        self._groups: dict[Hashable, _Group] = {}
        self._retries: deque[InferRequest] = deque()
        self._in_flight: set[_BatchCall] = set()
        self._is_scheduled = False
        self._can_split = True
        self._delay_timer: TimerHandle | None = None
        self._deadline_timer: TimerHandle | None = None
        self._next_deadline_s = INF
        self._names: Sequence[str] | None = None if model.inputs is None else tuple(spec.name for spec in model.inputs)
        self._known_shapes: dict[Any, tuple[Rows, Hashable]] = {}
        self._plans: dict[Any, Plan] = {}
        self._idle: list[Future[None]] = []

    # ---- requests

    def add(self, request: InferRequest) -> None:
        """Queue a request.

        Raises:
            ShapeError: its inputs do not fit the model.
            OverloadedError: the queue is full.
        """
        if request.names != self._names:
            self._order_inputs(request)
        shapes = tuple([(array.dtype, array.shape) for array in request.inputs])
        known = self._known_shapes.get((request.names, shapes))
        if known is None:
            known = self._look_at(request, shapes)
        layout, request.key = known
        request.layout = layout
        request.rows = layout.rows
        if not layout.is_whole:
            request.key = join_key(request.inputs, layout)
        if self.waiting >= self.limits.max_queue:
            raise OverloadedError(f"the queue is full: {self.waiting} requests wait; try again later")
        request.is_alone = not (layout.can_join and self._can_split)
        self._queue(request)
        deadline_s = request.deadline_s = min(request.deadline_s, request.arrived_s + self.limits.timeout_s)
        if deadline_s < self._next_deadline_s:
            self._set_deadline_timer(deadline_s)

    def cancel(self, request: InferRequest) -> None:
        """Drop a request whose client is gone: it is not computed if its batch is not made yet."""
        if not request.is_done:
            request.is_done = True
            self._stats.count_failure("canceled")
            self._forget_waiting(request)

    async def drain(self) -> None:
        """Wait until all requests are answered."""
        if self.waiting or self.running:
            done: Future[None] = self._loop.create_future()
            self._idle.append(done)
            await done

    def fail_all(self, error: Exception) -> None:
        """Fail all requests that wait or run."""
        now_s = time.monotonic()
        for request in list(self._all_requests()):
            self._fail(request, error, now_s)

    def _order_inputs(self, request: InferRequest) -> None:
        """Put the inputs in the model's order; raises ShapeError where the names are not the model's."""
        request.names, request.inputs = self._model.in_order(_by_name(request, request.inputs))

    def _look_at(self, request: InferRequest, shapes: Hashable) -> tuple[Rows, Hashable]:
        """Return how rows lie in inputs of these shapes, and what they have in common with others; raises ShapeError.

        The latter is right where all inputs hold rows.
        """
        _check_dtypes(self._model, request)
        self._model.plan(_by_name(request, request.inputs))  # raises where they do not fit
        layout = find_rows(self._model.inputs, request.names, request.inputs, self._model.batch_axes)
        known = layout, join_key(request.inputs, layout)
        _keep(self._known_shapes, (request.names, shapes), known)
        return known

    def _queue(self, request: InferRequest) -> None:
        key = id(request) if request.is_alone else request.key
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group()
        group.requests.append(request)
        group.rows += request.rows
        self.waiting += 1
        if not self._is_scheduled and self.running < 2 * self._capacity:
            self._schedule()

    def _schedule(self) -> None:
        """Make batches once all requests that have come by now are queued."""
        self._is_scheduled = True
        self._loop.call_soon(self._dispatch)

    # ---- batches

    def _dispatch(self) -> None:
        self._is_scheduled = False
        while self.waiting:
            key = self._choose_group()
            if key is None:
                return
            group = self._groups[key]
            is_full = group.rows >= self.limits.max_rows
            if self.running >= (2 * self._capacity if is_full else self._capacity):
                return
            requests = group.take(self.limits.max_rows)
            self.waiting -= len(requests)
            if not group.requests:
                del self._groups[key]
            self._send([request for request in requests if not request.is_done])

    def _choose_group(self) -> Hashable | None:
        """Return the group of the next batch; None where all wait for more requests, until the timer fires."""
        if not self.limits.max_delay_s and len(self._groups) == 1:
            return next(iter(self._groups))
        latest_s = time.monotonic() - self.limits.max_delay_s
        oldest_s = next_s = INF
        chosen = None
        for key, group in self._groups.items():
            arrived_s = group.requests[0].arrived_s
            if arrived_s > latest_s and group.rows < self.limits.max_rows and not group.requests[0].is_alone:
                next_s = min(next_s, arrived_s)
            elif arrived_s < oldest_s:
                oldest_s, chosen = arrived_s, key
        if chosen is None and self._delay_timer is None:
            delay_s = max(0.0, next_s - latest_s)
            self._delay_timer = self._loop.call_later(delay_s, self._end_delay)
        return chosen

    def _end_delay(self) -> None:
        self._delay_timer = None
        if not self._is_scheduled:
            self._dispatch()

    def _send(self, requests: list[InferRequest]) -> None:
        """Write the rows of a batch to one block, and give it to a worker."""
        if not requests:
            self._note_idle()
            return
        try:
            call = self._open(requests)
        except AscendParallelError as error:
            self._fail_each(requests, error)
            return
        tasks = len(call.plan.chunks)
        self.running += tasks
        self._in_flight.add(call)
        now_s = time.monotonic()
        for request in requests:
            request.sent_s = now_s
            request.batch_rows = call.rows
        try:
            self._backend.enqueue(call)
        except AscendParallelError as error:
            if call in self._in_flight:  # else take_batch was called with what failed it
                self._in_flight.discard(call)
                self.running -= tasks
                self._fail_each(requests, error)

    def _open(self, requests: list[InferRequest]) -> _BatchCall:
        first = requests[0]
        if len(requests) == 1:
            plan, arrays = self._model.plan(_by_name(first, first.inputs))
            return _BatchCall(plan, self._backend.place(plan, arrays, in_place=True), self, requests)
        plan = self._plan(first, first.layout.fixed_rows or sum([request.rows for request in requests]))
        placement, targets = self._backend.place_rows(plan)
        for position, axis in enumerate(first.layout.axes):
            _join(targets[position], axis, [request.inputs[position] for request in requests])
        return _BatchCall(plan, placement, self, requests)

    def _plan(self, request: InferRequest, rows: int) -> Plan:
        """Return the plan of a batch of so many rows like a request's."""
        key = (request.names, request.key, rows)
        plan = self._plans.get(key)
        if plan is None:
            arrays = [stand_in(a, axis, rows) for a, axis in zip(request.inputs, request.layout.axes, strict=True)]
            plan, _ = self._model.plan(_by_name(request, arrays))
            _keep(self._plans, key, plan)
        return plan

    # ---- answers

    def take_batch(self, call: Call) -> None:
        """Take a batch that is computed, or has failed; called by the backend."""
        assert isinstance(call, _BatchCall)
        if call not in self._in_flight:
            return
        self._in_flight.discard(call)
        self.running -= len(call.plan.chunks)
        if self.waiting and not self._is_scheduled:
            self._dispatch()
        try:
            outputs = call.outputs()
        except AscendParallelError as error:
            self._fail_each(call.requests, error)
        else:
            self._stats.count_batch(call.rows, call.compute_ns)
            self._answer_each(call, outputs)
        self._note_idle()

    def _answer_each(self, call: _BatchCall, outputs: dict[str, Array]) -> None:
        requests = call.requests
        now_s = time.monotonic()
        if len(requests) == 1:
            self._answer(requests[0], call, outputs, now_s)
            return
        whole = requests[0].layout.fixed_rows or call.rows
        reason = why_not_split(outputs, self._model.batch_axes, whole)
        if reason:
            self._stop_joining(reason)
            self._retry(requests)
            return
        start = 0
        for request in requests:
            stop = start + request.rows
            self._answer(request, call, split(outputs, self._model.batch_axes, whole, start, stop), now_s)
            start = stop

    def _answer(self, request: InferRequest, call: _BatchCall, outputs: dict[str, Array], now_s: float) -> None:
        if request.is_done:
            return
        request.computed_s = now_s
        request.compute_ns = call.compute_ns
        request.worker = call.worker
        request.answer(outputs, None, now_s)
        self._stats.count_success(request)

    def _stop_joining(self, reason: str) -> None:
        if self._can_split:
            self._can_split = False
            logger.warning("requests for model %s are not joined any more: %s", self._stats.name, reason)

    # ---- failures

    def _fail_each(self, requests: Sequence[InferRequest], error: Exception) -> None:
        """Fail the request of a batch; try those of a larger batch again, one by one."""
        if len(requests) > 1 and isinstance(error, WorkerError) and not isinstance(error, WorkerTimeout):
            self._retry(requests)
            return
        now_s = time.monotonic()
        for request in requests:
            self._fail(request, error, now_s)

    def _retry(self, requests: Sequence[InferRequest]) -> None:
        for request in requests:
            if not request.is_done:
                request.is_alone = True
                self._queue(request)

    def _fail(self, request: InferRequest, error: Exception, now_s: float) -> None:
        if not request.is_done:
            self._forget_waiting(request)
            self._stats.count_failure(_reason(error))
            request.answer(None, error, now_s)

    def _forget_waiting(self, request: InferRequest) -> None:
        """Take a request that is done out of the queue."""
        key = id(request) if request.is_alone else request.key
        group = self._groups.get(key)
        if group is None or request not in group.requests:
            return
        group.requests.remove(request)
        group.rows -= request.rows
        self.waiting -= 1
        if not group.requests:
            del self._groups[key]
        self._note_idle()

    def _all_requests(self) -> Iterator[InferRequest]:
        for group in self._groups.values():
            yield from group.requests
        for call in self._in_flight:
            yield from call.requests

    # ---- deadlines

    def _set_deadline_timer(self, deadline_s: float) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._next_deadline_s = deadline_s
        self._deadline_timer = self._loop.call_later(max(0.0, deadline_s - time.monotonic()), self._check_deadlines)

    def _check_deadlines(self) -> None:
        self._deadline_timer = None
        self._next_deadline_s = next_s = INF
        now_s = time.monotonic()
        for request in list(self._all_requests()):
            if request.is_done:
                continue
            if request.deadline_s <= now_s:
                self._fail(request, _too_late(request, now_s), now_s)
            else:
                next_s = min(next_s, request.deadline_s)
        if next_s < INF:
            self._set_deadline_timer(next_s)

    # ---- the end

    def _note_idle(self) -> None:
        if self._idle and not self.waiting and not self.running:
            for done in self._idle:
                if not done.done():
                    done.set_result(None)
            self._idle.clear()


def _join(target: Array, axis: int | None, parts: Sequence[Array]) -> None:
    """Copy the rows of several requests one behind the other; repeat the last where the target has more rows."""
    if axis is None:
        target[...] = parts[0]
        return
    target = np.moveaxis(target, axis, 0)
    start = 0
    for part in parts:
        stop = start + part.shape[axis]
        target[start:stop] = np.moveaxis(part, axis, 0) if axis else part
        start = stop
    if start < len(target):
        target[start:] = target[start - 1]


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


def _too_late(request: InferRequest, now_s: float) -> DeadlineError:
    waited_ms = (now_s - request.arrived_s) * 1e3
    where = "in the queue" if not request.sent_s else "waiting for its result"
    return DeadlineError(f"the request was not answered in time: it has spent {waited_ms:.0f} ms {where}")


def _reason(error: Exception) -> str:
    """Return the label of a failure in the metrics."""
    if isinstance(error, (DeadlineError, WorkerTimeout)):
        return "timeout"
    if isinstance(error, (OverloadedError, RunnerClosedError)):
        return "rejected"
    return "error"
