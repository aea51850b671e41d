"""When what happened in each call: recorded where it was asked for, as ``runner.trace``.

All times are ``time.perf_counter_ns``, which on Linux is one clock for all processes of a machine. The latest calls
are kept, so that a run of days fills no memory; each costs a few microseconds.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, NamedTuple

from ascend_parallel.backends.call import Call, Placement, Task
from ascend_parallel.backends.event_loop import EventLoop
from ascend_parallel.batching.plan import Plan

#: Tasks that are kept; older calls make way. A task takes about 400 bytes here, and 1 KB in a file.
MAX_TASKS = 100_000


class TaskRecord(NamedTuple):
    """One task, as it was answered.

    Attributes:
        worker: the label of the worker that answered it: ``"cpu:0"``, or ``"cpu:0#1"``.
        start: its first row.
        rows: its rows.
        failures: workers that died over it before.
        written_ns: its inputs lay in shared memory; it was queued.
        started_ns: the worker's engine began.
        finished_ns: its outputs lay in their place.
    """

    worker: str
    start: int
    rows: int
    failures: int
    written_ns: int
    started_ns: int
    finished_ns: int


class CallRecord(NamedTuple):
    """One call that is over.

    Attributes:
        number: counts the calls of a trace, from 1.
        model: the model's name in the runner; "" where there is only one.
        opened_ns: ``predict`` or ``submit`` was called.
        begun_ns: the call was planned and had its memory; copying began.
        gather_ns: the caller, or its future, was notified; the outputs were joined.
        closed_ns: the result was there.
        tasks: in the order of their answers, so that the last is the one that the call waited for.
        error: the class of the error that it ended with; "" where it succeeded.
    """

    number: int
    model: str
    opened_ns: int
    begun_ns: int
    gather_ns: int
    closed_ns: int
    tasks: tuple[TaskRecord, ...]
    error: str


class Trace:
    """The records of the latest calls; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._calls: deque[CallRecord] = deque()
        self._tasks = 0
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many calls had to make way for later ones."""
        return self._dropped

    def calls(self) -> list[CallRecord]:
        """Return the records of the calls that are over, in the order of their ends."""
        with self._lock:
            return list(self._calls)

    def next_number(self) -> int:
        """Return the number of a call that is being made."""
        return next(self._numbers)

    def add(self, record: CallRecord) -> None:
        """Take the record of a call that is over."""
        with self._lock:
            self._calls.append(record)
            self._tasks += len(record.tasks)
            while self._tasks > MAX_TASKS and len(self._calls) > 1:
                self._tasks -= len(self._calls.popleft().tasks)
                self._dropped += 1


class RecordedCall(Call):
    """A call that notes its times, and gives its record to a trace when its result was put together."""

    is_recorded = True

    def __init__(
        self,
        trace: Trace,
        opened_ns: int,
        plan: Plan,
        placement: Placement,
        on_done: Callable[[Call], None] | None = None,
        loop: EventLoop | None = None,
    ) -> None:
        super().__init__(plan, placement, on_done, loop)
        self._trace = trace
        self._number = trace.next_number()
        self._opened_ns = opened_ns
        self._begun_ns = perf_counter_ns()
        self._written_ns: dict[int, int] = {}
        self._replies: list[TaskRecord] = []
        self._is_added = False

    def note_written(self, index: int) -> None:
        """Note when the inputs of a chunk were ready for a worker."""
        self._written_ns[index] = perf_counter_ns()

    def note_reply(self, task: Task, worker: str, started_ns: int, finished_ns: int) -> None:
        """Note when a worker computed a task."""
        written_ns = self._written_ns[task.index]
        record = TaskRecord(worker, task.start, task.rows, task.failures, written_ns, started_ns, finished_ns)
        self._replies.append(record)

    def outputs(self) -> Any:
        """Return the outputs, or raise the call's error; note how long they took, and with it the call."""
        gather_ns = perf_counter_ns()
        try:
            return super().outputs()
        finally:
            if not self._is_added:
                self._is_added = True
                times = (self._opened_ns, self._begun_ns, gather_ns, perf_counter_ns())
                error = "" if self.error is None else type(self.error).__name__
                self._trace.add(CallRecord(self._number, self.plan.model_name, *times, tuple(self._replies), error))
