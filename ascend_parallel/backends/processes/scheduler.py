"""Which worker gets the next task, and what becomes of the tasks of a dead one.

Workers pull tasks, so slow and fast devices even out.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence

from ascend_parallel.backends.allocator import Allocator
from ascend_parallel.backends.call import Call, Task
from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import RunnerClosedError, WorkerError, WorkerTimeout

from .worker_process import Worker

#: A device slower than the fastest by this factor gets no second task while few are waiting: the last chunk of a
#: call would wait there behind another.
SLOW_FACTOR = 1.5
#: How much one task counts in a worker's seconds per row, against those before.
_SMOOTHING = 0.2


class Scheduler:
    """The queue of tasks, and the workers with room for one. It is not thread-safe: its owner holds a lock.

    A worker has room for as many tasks as it runs at a time, and for as many more, so that between two tasks it never
    waits for the master. An idle worker comes first.

    Attributes:
        open_calls: calls of which anything is owed.
        completed: calls that are completed or failed and whose callers are to be notified, once the lock is released.
    """

    def __init__(self, allocator: Allocator, *, predict_timeout_s: float, max_retries: int) -> None:
        self.open_calls: set[Call] = set()
        self.completed: list[Call] = []
        self._unattended: set[Call] = set()
        self._cancelled: set[Task] = set()
        self._allocator = allocator
        self._predict_timeout_s = predict_timeout_s
        self._max_retries = max_retries
        self._queue: deque[Task] = deque()
        self._ready: set[Worker] = set()
        self._idle: dict[Worker, None] = {}  # in the order in which they became so
        self._spare: dict[Worker, None] = {}
        self._best_seconds_per_row: dict[str, float] = {}

    @property
    def has_queued(self) -> bool:
        """Whether a task waits for a worker with room."""
        return bool(self._queue)

    def has_unattended(self) -> bool:
        """Whether a reply is owed that nobody waits for, or that lets a queued task go.

        The reply to a task of a cancelled call is one of these: until it comes, its worker is not known to be free.
        """
        return bool(self._unattended or self._queue or self._cancelled)

    def has_unattended_calls(self) -> bool:
        """Whether a call is open that was marked as unattended."""
        return bool(self._unattended)

    def mark_unattended(self, call: Call) -> None:
        """Note that nobody will come for a call's replies."""
        if call.is_open:
            self._unattended.add(call)

    # ---- to the workers

    def enqueue(self, tasks: Sequence[Task]) -> None:
        """Queue tasks of one call, and send those for which a worker has room."""
        call = tasks[0].call
        if call.timeout_s is None:
            call.timeout_s = self._predict_timeout_s
        self.open_calls.add(call)
        self._queue.extend(tasks)
        self.dispatch()

    def dispatch(self) -> None:
        """Send tasks as long as there are any, and workers with room."""
        while self._queue:
            worker = self._choose_idle() if self._idle else self._choose_spare()
            if worker is None:
                return
            task = self._queue.popleft()
            if task.call.is_open:
                retired = self._allocator.take_unmapped(worker.number) if self._allocator.has_unmapped else ()
                task.deadline_s = float("inf")
                try:
                    worker.send(task, retired)
                except RunnerClosedError as error:
                    self.fail(task.call, error)
                    continue
                if len(worker.in_flight) <= worker.capacity:
                    _start_clock(task)
                self.update(worker)

    def set_ready(self, worker: Worker, is_ready: bool) -> None:
        """Note that a worker can take tasks, or that it gets no more."""
        worker.is_ready = is_ready
        if is_ready:
            self._ready.add(worker)
            self.update(worker)
        else:
            self._ready.discard(worker)
            self._idle.pop(worker, None)
            self._spare.pop(worker, None)

    def update(self, worker: Worker) -> None:
        """Put a worker where it belongs, after the number of its tasks in flight changed."""
        self._idle.pop(worker, None)
        self._spare.pop(worker, None)
        if worker.is_ready:
            in_flight = len(worker.in_flight)
            if in_flight < worker.capacity:
                self._idle[worker] = None
            elif in_flight < 2 * worker.capacity:
                self._spare[worker] = None

    def _choose_idle(self) -> Worker:
        """Return the idle worker that gets the next task: of a call that is split, one after the other.

        Else the one that became idle last: its caches are warm.
        """
        is_split = len(self._queue[0].call.plan.chunks) > 1
        return next(iter(self._idle)) if is_split else next(reversed(self._idle))

    def _choose_spare(self) -> Worker | None:
        """Return the worker that gets a second task; None where the next task had better wait."""
        model = self._queue[0].call.plan.model_name
        many_wait = len(self._queue) >= 2 * len(self._ready)
        slow_s = SLOW_FACTOR * self._best_seconds_per_row.get(model, float("inf"))
        for worker in self._spare:
            if many_wait or worker.seconds_per_row.get(model, 0.0) <= slow_s:
                return worker
        return None

    # ---- from the workers

    def complete(self, worker: Worker, number: int, outputs: dict[str, Array] | None, busy_ns: int) -> None:
        """Take the reply to a task; ``outputs`` is None where they were written to their destinations."""
        task = self._pop(worker, number)
        call = task.call
        model = call.plan.model_name
        seconds = busy_ns / 1e9 / task.rows
        before = worker.seconds_per_row.get(model, seconds)
        worker.seconds_per_row[model] = seconds = before + _SMOOTHING * (seconds - before)
        # The best is forgotten slowly, so that one lucky task does not make all others look slow for ever.
        best = self._best_seconds_per_row.get(model, seconds) * (1 + _SMOOTHING / 10)
        self._best_seconds_per_row[model] = seconds if seconds < best else best
        if call.complete(task, outputs):
            self._end(call)

    def fail_task(self, worker: Worker, number: int, error: WorkerError) -> None:
        """Take an engine's error: the call fails, as another attempt would raise the same."""
        self.fail(self._pop(worker, number).call, error)

    def fail(self, call: Call, error: Exception) -> None:
        """Fail a call: what of it is queued is dropped, and its caller is to be notified."""
        call.fail(error)
        if call in self.open_calls:  # also one that an interrupt hit between its last reply and its end
            self._queue = deque(task for task in self._queue if task.call is not call)
            self._cancelled.update(t for worker in self._ready for t in worker.in_flight.values() if t.call is call)
            self._end(call)

    def reassign(self, worker: Worker, error: WorkerError) -> None:
        """Queue a dead worker's tasks again, before all others; those that it was running count it as a failure."""
        tasks = list(worker.in_flight.values())
        worker.in_flight.clear()
        self._cancelled.difference_update(tasks)
        for task in tasks[: worker.capacity]:
            task.failures += 1
            max_retries = task.call.max_retries
            if task.failures > (self._max_retries if max_retries is None else max_retries):
                self.fail(task.call, error)
        self._queue.extendleft(task for task in reversed(tasks) if task.call.is_open)

    def _end(self, call: Call) -> None:
        self.completed.append(call)  # first: a call that an interrupt hits here is notified twice, and not never
        self._unattended.discard(call)
        self.open_calls.discard(call)

    def _pop(self, worker: Worker, number: int) -> Task:
        """Take a task off those that a worker has in flight."""
        task = worker.in_flight.pop(number)
        if self._cancelled:
            self._cancelled.discard(task)
        if len(worker.in_flight) >= worker.capacity:  # the last of those that it runs now has just begun
            _start_clock(next(itertools.islice(worker.in_flight.values(), worker.capacity - 1, None)))
        self.update(worker)
        return task

    # ---- deadlines

    def due_s(self, worker: Worker) -> float:
        """Return when the next reply of a worker is overdue (``time.monotonic``); inf where it owes none."""
        return min((task.deadline_s for task in worker.in_flight.values()), default=float("inf"))

    def time_out(self, worker: Worker, now_s: float, make_error: Callable[[float], WorkerTimeout]) -> WorkerTimeout:
        """Fail the calls whose tasks have run for too long; return the error, made from the time that they had."""
        overdue = [task for task in worker.in_flight.values() if task.deadline_s <= now_s]
        error = make_error(min(task.call.timeout_s or 0.0 for task in overdue))
        for task in overdue:
            self.fail(task.call, error)
        return error


def _start_clock(task: Task) -> None:
    """Start the time of a task that a worker has just begun to run."""
    assert task.call.timeout_s is not None
    task.deadline_s = time.monotonic() + task.call.timeout_s
