"""When what happened in each call: recorded where it was asked for, as ``runner.trace``.

All times are ``time.perf_counter_ns``, which on Linux is one clock for all processes of a machine. The latest calls
are kept, so that a run of days fills no memory; each costs a few microseconds.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .call import Call, Task

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
        gather_ns: the caller, or its future, was told; the result was put together.
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
    """The records of the latest calls; safe from threads."""

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

    def open(self) -> Timeline:
        """Begin the record of a call that was made just now."""
        return Timeline(self, next(self._numbers))

    def add(self, record: CallRecord) -> None:
        """Take the record of a call that is over."""
        with self._lock:
            self._calls.append(record)
            self._tasks += len(record.tasks)
            while self._tasks > MAX_TASKS and len(self._calls) > 1:
                self._tasks -= len(self._calls.popleft().tasks)
                self._dropped += 1


class Timeline:
    """The record of one call in the making."""

    def __init__(self, trace: Trace, number: int) -> None:
        self._opened_ns = perf_counter_ns()
        self._trace = trace
        self._number = number
        self._begun_ns = 0
        self._written_ns: dict[int, int] = {}
        self._tasks: list[TaskRecord] = []
        self._is_closed = False

    def watch(self, chunks: Iterator[int]) -> Iterator[int]:
        """Yield what ``chunks`` yields, each when its inputs have been written, and note when."""
        self._begun_ns = perf_counter_ns()
        for index in chunks:
            self._written_ns[index] = perf_counter_ns()
            yield index

    def note_answer(self, task: Task, worker: str, started_ns: int, finished_ns: int) -> None:
        """Take what a worker tells of a task."""
        written_ns = self._written_ns[task.index]
        record = TaskRecord(worker, task.start, task.rows, task.failures, written_ns, started_ns, finished_ns)
        self._tasks.append(record)

    @contextmanager
    def gathering(self, call: Call) -> Iterator[None]:
        """Note the time that the result takes to be put together, and with it the call."""
        gather_ns = perf_counter_ns()
        try:
            yield
        finally:
            if not self._is_closed:
                self._is_closed = True
                error = "" if call.error is None else type(call.error).__name__
                times = (self._opened_ns, self._begun_ns, gather_ns, perf_counter_ns())
                record = CallRecord(self._number, call.plan.model_name, *times, tuple(self._tasks), error)
                self._trace.add(record)
