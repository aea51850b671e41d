"""Dynamic batching: the requests of many clients joined into batches, one task each.

Everything here runs in the event loop's thread. A batch goes to a worker as soon as one is free, once the loop has read
what came close behind. One more goes to each worker in advance where that costs nothing: where a full batch waits, or
small ones are computed as quickly as a large one. Which requests a batch is made of, the queue decides. How they are
written and answered, the subclasses say: rows of a model's inputs (row_batcher.py), or whole requests for an op of a
pipeline.

A batch that fails is tried again request by request, so that each failure goes to its own request.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

from ascend_parallel.backends.backend import Backend
from ascend_parallel.backends.call import Call, Placement, Task
from ascend_parallel.backends.event_loop import EventLoop
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.plan import Plan
from ascend_parallel.errors import (
    AscendParallelError,
    DeadlineError,
    OverloadedError,
    WorkerError,
    WorkerTimeout,
)

from .deadlines import Deadlines
from .error_text import reason_of, text_of
from .failure_log import FailureLog
from .log import logger
from .model_stats import ModelStats
from .request import InferRequest

#: How long requests are read before a batch is made of them: what small ones take whose clients send at the same time.
_QUIET_S = 3e-4


class Queue(Protocol):
    """The requests that wait. ``len()`` is how many there are; iterating yields them."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[InferRequest]: ...

    def add(self, request: InferRequest) -> bool:
        """Add a request behind those that are there; return whether its group makes a whole batch now."""

    def remove(self, request: InferRequest) -> bool:
        """Take a request out; return whether it was there."""

    def choose(self, now_s: float) -> tuple[Any, float]:
        """Return the group of the next batch; None, and when to look again, where all wait for more requests."""

    def may_go_ahead(self, group: Any) -> bool:
        """Whether a batch of a group may go to a worker that still computes another."""

    def take(self, group: Any, idle: int) -> list[InferRequest]:
        """Take the requests of one batch out of a group: what one of so many idle workers is to get."""


class Limits(NamedTuple):
    """Limits of the queue and the batches of one model.

    Attributes:
        max_rows: rows of a batch at most. A larger request is split across the workers.
        max_delay_s: how long the first request of a batch waits for others, though a worker is free.
        max_queue: requests that may wait.
        timeout_s: how long a request may wait and be computed.
        compute_timeout_s: how long a worker may compute a batch, whose requests are then tried again one by one; None:
            as long as ``timeout_s``.
    """

    max_rows: int
    max_delay_s: float = 0.0
    max_queue: int = 1024
    timeout_s: float = 60.0
    compute_timeout_s: float | None = None


class BatchCall(Call):
    """The call of one batch; it notes who computed it, and for how long.

    Attributes:
        requests: whose rows it has.
        rows: how many there are.
        compute_ns: how long the engine computed.
        worker: the label of the worker that did.
    """

    is_recorded = True

    def __init__(self, plan: Plan, placement: Placement, batcher: Batcher, requests: list[InferRequest]) -> None:
        super().__init__(plan, placement, batcher.take_batch, batcher.event_loop)
        limits = batcher.limits
        self.timeout_s = limits.timeout_s if limits.compute_timeout_s is None else limits.compute_timeout_s
        self.requests = requests
        self.rows = sum([request.rows for request in requests])
        self.compute_ns = 0
        self.worker = ""
        if len(requests) > 1:
            self.max_retries = 0  # it is tried again request by request

    def note_reply(self, task: Task, worker: str, started_ns: int, finished_ns: int) -> None:
        """Note when a worker computed a task."""
        self.compute_ns += finished_ns - started_ns
        self.worker = worker


class Batcher(ABC):
    """The queue of one model, or of one op.

    Attributes:
        limits: what it keeps to.
        event_loop: the loop in whose thread it runs, attached to the backend.
        running: tasks that workers have; a large request is several.
    """

    call_class: type[BatchCall] = BatchCall

    def __init__(
        self,
        backend: Backend,
        loop: AbstractEventLoop,
        limits: Limits,
        capacity: int,
        stats: ModelStats,
        queue: Queue,
    ) -> None:
        """Prepare; must be called in the loop's thread.

        Args:
            backend: who computes; it is started.
            loop: the running loop.
            limits: of the queue and the batches.
            capacity: batches that are computed at the same time.
            stats: counts.
            queue: an empty one.
        """
        self.limits = limits
        self.event_loop: EventLoop = backend.attach(loop)
        self.running = 0
        self._backend = backend
        self._loop = loop
        self._capacity = capacity
        self._stats = stats
        self._failures = FailureLog(stats.name, stats.version, loop)
        self._queue = queue
        self._in_flight: set[BatchCall] = set()
        self._is_scheduled = False
        self._delay_timer: TimerHandle | None = None
        self._deadlines = Deadlines(self._open_requests, self._fail_late)

    # ---- what a batch is

    @abstractmethod
    def _prepare(self, request: InferRequest) -> None:
        """Look at a new request: set its rows, and whether it is alone; raise where it cannot be computed."""

    @abstractmethod
    def _open(self, requests: list[InferRequest]) -> tuple[Plan, Placement]:
        """Return how a batch is to be done, and where its inputs now lie."""

    @abstractmethod
    def _answer_each(self, call: BatchCall, outputs: dict[str, Array]) -> None:
        """Give each request of a batch its part of the outputs."""

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    # ---- requests

    def add(self, request: InferRequest) -> None:
        """Queue a request.

        Raises:
            ShapeError: its inputs do not fit the model.
            TooLargeError: it has too many rows.
            OverloadedError: the queue is full.
        """
        self._prepare(request)
        if len(self._queue) >= self.limits.max_queue:
            error = OverloadedError(f"the queue is full: {len(self._queue)} requests wait; try again later")
            self._failures.add(request, "rejected", error)
            raise error
        deadline_s = request.deadline_s = min(request.deadline_s, request.arrived_s + self.limits.timeout_s)
        if deadline_s < self._deadlines.next_s:
            self._deadlines.watch(deadline_s)
        self._enqueue(request)

    def cancel(self, request: InferRequest) -> None:
        """Drop a request whose client is gone: it is not computed if its batch is not made yet."""
        if not request.is_done:
            request.is_done = True
            self._stats.count_failure("canceled")
            self._forget_waiting(request)

    async def drain(self, timeout_s: float) -> None:
        """Wait until all requests are answered, for at most so long."""
        await self._deadlines.drain(timeout_s)

    def fail_all(self, error: Exception) -> None:
        """Fail all requests that wait or run."""
        now_s = time.monotonic()
        for request in list(self._open_requests()):
            self._fail(request, error, now_s)

    def _enqueue(self, request: InferRequest) -> None:
        is_full = self._queue.add(request)
        if is_full and self.running < self._capacity:  # a worker begins while the loop reads what else has come
            self._dispatch()
        elif not self._is_scheduled and self.running < 2 * self._capacity:
            self._is_scheduled = True
            self._loop.call_soon(self._dispatch_when_quiet, 0, time.monotonic() + _QUIET_S)

    def _dispatch_when_quiet(self, seen: int, until_s: float) -> None:
        """Make batches once the loop finds no more requests: those of many clients come one close behind the other.

        Args:
            seen: how many waited a turn of the loop ago.
            until_s: when batches are made at the latest.
        """
        waiting = len(self._queue)
        if seen < waiting < self.limits.max_rows and time.monotonic() < until_s:
            self._loop.call_soon(self._dispatch_when_quiet, waiting, until_s)
        else:
            self._is_scheduled = False
            self._dispatch()

    # ---- batches

    def _dispatch(self) -> None:
        queue = self._queue
        while queue:
            group, next_s = queue.choose(time.monotonic())
            if group is None:
                self._set_delay_timer(next_s)
                return
            idle = self._capacity - self.running
            if idle <= 0 and not (idle > -self._capacity and queue.may_go_ahead(group)):
                return
            self._send([request for request in queue.take(group, idle) if not request.is_done])

    def _set_delay_timer(self, next_s: float) -> None:
        if self._delay_timer is None:
            delay_s = max(0.0, next_s - time.monotonic())
            self._delay_timer = self._loop.call_later(delay_s, self._end_delay)

    def _end_delay(self) -> None:
        self._delay_timer = None
        if not self._is_scheduled:
            self._dispatch()

    def _send(self, requests: list[InferRequest]) -> None:
        """Write the rows of a batch to one block, and give it to a worker."""
        if not requests:
            self._deadlines.note_done()
            return
        try:
            call = self.call_class(*self._open(requests), self, requests)
        except Exception as error:
            self._fail_each(requests, describe_fault(error))
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
        except Exception as error:
            if call in self._in_flight:  # else take_batch was called with what failed it
                self._in_flight.discard(call)
                self.running -= tasks
                self._fail_each(requests, describe_fault(error))

    # ---- answers

    def take_batch(self, call: Call) -> None:
        """Take a batch that is computed, or has failed; called by the backend."""
        assert isinstance(call, BatchCall)
        if call not in self._in_flight:
            return
        self._in_flight.discard(call)
        self.running -= len(call.plan.chunks)
        if self._queue and not self._is_scheduled:
            self._dispatch()
        try:
            outputs = call.outputs()
        except Exception as error:
            self._fail_each(call.requests, describe_fault(error))
        else:
            self._stats.count_batch(call.rows, call.compute_ns)
            self._answer_each(call, outputs)
        self._deadlines.note_done()

    def _answer(self, request: InferRequest, call: BatchCall, outputs: dict[str, Array], now_s: float) -> None:
        if request.is_done:
            return
        request.computed_s = now_s
        request.compute_ns = call.compute_ns
        request.worker = call.worker
        request.answer(outputs, None, now_s)
        self._stats.count_answered(request)

    # ---- failures

    def _fail_each(self, requests: Sequence[InferRequest], error: Exception) -> None:
        """Fail the request of a batch; try those of a larger batch again, one by one."""
        has_time = self.limits.compute_timeout_s is not None  # else that of the requests is over, too
        is_retried = isinstance(error, WorkerError) and (has_time or not isinstance(error, WorkerTimeout))
        if len(requests) > 1 and is_retried:
            self._retry(requests)
            return
        now_s = time.monotonic()
        for request in requests:
            self._fail(request, error, now_s)

    def _retry(self, requests: Sequence[InferRequest]) -> None:
        for request in requests:
            if not request.is_done:
                request.is_alone = True
                self._enqueue(request)

    def _fail(self, request: InferRequest, error: Exception, now_s: float) -> None:
        if not request.is_done:
            self._forget_waiting(request)
            reason = reason_of(error)
            self._stats.count_failure(reason)
            if reason != "invalid":
                self._failures.add(request, reason, error)
            request.answer(None, error, now_s)

    def _forget_waiting(self, request: InferRequest) -> None:
        """Take a request that is done out of the queue."""
        if self._queue.remove(request):
            self._deadlines.note_done()

    def _fail_late(self, request: InferRequest, now_s: float) -> None:
        self._fail(request, _too_late(request, now_s), now_s)

    def _open_requests(self) -> Iterator[InferRequest]:
        in_flight = [call.requests for call in self._in_flight]
        return (request for request in chain(self._queue, *in_flight) if not request.is_done)


def describe_fault(error: Exception) -> AscendParallelError:
    """Return an error as one of ours: a server that runs out of memory or descriptors is overloaded."""
    if isinstance(error, AscendParallelError):
        return error
    logger.error("a batch or a request failed", exc_info=error)
    if isinstance(error, (OSError, MemoryError)):
        return OverloadedError(f"the server has too little memory or too few descriptors for the request: {error}")
    return AscendParallelError(text_of(error))


def _too_late(request: InferRequest, now_s: float) -> DeadlineError:
    waited_ms = (now_s - request.arrived_s) * 1e3
    where = "in the queue" if not request.sent_s else "waiting for its result"
    return DeadlineError(f"the request was not answered in time: it has spent {waited_ms:.0f} ms {where}")
