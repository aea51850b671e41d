"""The work that is owed: which worker gets the next task, and what becomes of those of a dead one.

Workers pull, so slow and fast devices even out.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque

from ascend_parallel.backends.call import Call, Task
from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import WorkerError, WorkerTimeout

from .allocator import Allocator
from .worker_process import Worker

#: A device slower than the fastest by this factor gets no second task while few are waiting: the last chunk of a
#: call would wait there behind another.
SLOW_FACTOR = 1.5
#: How much one task counts in a worker's pace against those before.
_SMOOTHING = 0.2


class Scheduler:
    """The queue of tasks, and the workers with room for one; not safe from threads, its owner holds a lock.

    A worker has room for as many tasks as it runs at a time, and for as many more, so that between two it never
    waits for the master. An idle worker comes first.

    Attributes:
        open_calls: calls of which anything is owed.
        over: calls that are complete or failed and whose callers are to be told, once the lock is released.
    """

    def __init__(self, pool: Allocator, *, predict_timeout_s: float, max_retries: int) -> None:
        self.open_calls: set[Call] = set()
        self.over: list[Call] = []
        self._unattended: set[Call] = set()
        self._orphans: set[Task] = set()
        self._pool = pool
        self._predict_timeout_s = predict_timeout_s
        self._max_retries = max_retries
        self._queue: deque[Task] = deque()
        self._ready: set[Worker] = set()
        self._idle: OrderedDict[Worker, None] = OrderedDict()
        self._spare: OrderedDict[Worker, None] = OrderedDict()
        self._best_pace_s: dict[str, float] = {}

    @property
    def has_to_hear(self) -> bool:
        """Whether an answer is owed that nobody will come for, or would let a task go that waits.

        That to a task of a call which was given up is one too: until then its worker is not known to be free.
        """
        return bool(self._unattended or self._queue or self._orphans)

    def hear_for(self, call: Call) -> None:
        """Note that nobody will come for a call's answers."""
        if call.is_open:
            self._unattended.add(call)

    def put(self, task: Task) -> None:
        """Take a task, and send it if a worker has room."""
        self.open_calls.add(task.call)
        self._queue.append(task)
        self.dispatch()

    def dispatch(self) -> None:
        """Send tasks as long as there are any, and workers with room."""
        while self._queue:
            worker = next(iter(self._idle), None) or self._choose_spare()
            if worker is None:
                return
            task = self._queue.popleft()
            if task.call.is_open:
                task.deadline_s = float("inf")
                worker.send(task, self._pool)
                self._start_clock(worker)
                self.update(worker)

    def update(self, worker: Worker) -> None:
        """Put a worker where it belongs, after anything about it changed."""
        self._idle.pop(worker, None)
        self._spare.pop(worker, None)
        if not worker.is_ready:
            self._ready.discard(worker)
            return
        self._ready.add(worker)
        if len(worker.owed) < worker.capacity:
            self._idle[worker] = None
        elif len(worker.owed) < 2 * worker.capacity:
            self._spare[worker] = None

    def finish(self, worker: Worker, number: int, outputs: dict[str, Array] | None, compute_s: float) -> Task:
        """Take the answer to a task (None: it lies in its place)."""
        task = self._settle(worker, number)
        self._note_pace(worker, task, compute_s)
        if task.call.finish(task, outputs):
            self._end(task.call)
        return task

    def refuse(self, worker: Worker, number: int, error: WorkerError) -> None:
        """Take an engine's error: the call fails; running again would give the same."""
        self.fail(self._settle(worker, number).call, error)

    def fail(self, call: Call, error: Exception) -> None:
        """Give a call up, and what of it is waiting; its caller is to be told."""
        call.fail(error)
        if call in self.open_calls:  # one, too, that an interrupt hit between its last answer and its end
            self._queue = deque(task for task in self._queue if task.call is not call)
            self._orphans.update(t for worker in self._ready for t in worker.owed.values() if t.call is call)
            self._end(call)

    def is_overdue(self, worker: Worker, now_s: float) -> bool:
        """Whether a task that the worker runs should have been answered by now."""
        return self.due_s(worker) <= now_s

    def due_s(self, worker: Worker) -> float:
        """Return when the next answer of a worker is overdue (``time.monotonic``); inf where it owes none."""
        return min((task.deadline_s for task in worker.owed.values()), default=float("inf"))

    def limit_s(self, worker: Worker, now_s: float) -> float:
        """Return how long the overdue task of a worker was given."""
        overdue = [task for task in worker.owed.values() if task.deadline_s <= now_s]
        return min(self._timeout_s(task) for task in overdue)

    def _timeout_s(self, task: Task) -> float:
        return self._predict_timeout_s if task.call.timeout_s is None else task.call.timeout_s

    def time_out(self, worker: Worker, error: WorkerTimeout) -> None:
        """Fail the calls whose tasks have run for too long."""
        now_s = time.monotonic()
        for task in list(worker.owed.values()):
            if task.deadline_s <= now_s:
                self.fail(task.call, error)

    def reassign(self, worker: Worker, error: WorkerError) -> None:
        """Queue a dead worker's tasks again, before all others; those that it was running count it as a failure."""
        tasks = list(worker.owed.values())
        worker.owed.clear()
        self._orphans.difference_update(tasks)
        for task in tasks[: worker.capacity]:
            task.failures += 1
            if task.failures > self._max_retries:
                self.fail(task.call, error)
        self._queue.extendleft(task for task in reversed(tasks) if task.call.is_open)

    def _end(self, call: Call) -> None:
        self.over.append(call)  # the first: a call that an interrupt hits here is told twice, and not never
        self._unattended.discard(call)
        self.open_calls.discard(call)

    def _settle(self, worker: Worker, number: int) -> Task:
        """Strike a task off what a worker owes."""
        task = worker.owed.pop(number)
        self._orphans.discard(task)
        self._start_clock(worker)
        self.update(worker)
        return task

    def _start_clock(self, worker: Worker) -> None:
        """Start the time of the task that is the last of those that the worker runs, if it just became so."""
        for place, task in enumerate(worker.owed.values(), 1):
            if place == worker.capacity or place == len(worker.owed):
                if task.deadline_s == float("inf"):
                    task.deadline_s = time.monotonic() + self._timeout_s(task)
                return

    def _note_pace(self, worker: Worker, task: Task, compute_s: float) -> None:
        model = task.call.plan.model_name
        pace_s = compute_s / task.rows
        before_s = worker.pace_s.get(model, pace_s)
        worker.pace_s[model] = pace_s = before_s + _SMOOTHING * (pace_s - before_s)
        best_s = self._best_pace_s.get(model, pace_s)
        # The best pace is forgotten slowly, so that one lucky task does not make all others look slow for ever.
        self._best_pace_s[model] = min(pace_s, best_s * (1 + _SMOOTHING / 10))

    def _choose_spare(self) -> Worker | None:
        """Return the worker that is to have a second task; None where the next one had better wait."""
        model = self._queue[0].call.plan.model_name
        many_wait = len(self._queue) >= 2 * len(self._ready)
        slow_s = SLOW_FACTOR * self._best_pace_s.get(model, float("inf"))
        for worker in self._spare:
            if many_wait or worker.pace_s.get(model, 0.0) <= slow_s:
                return worker
        return None
