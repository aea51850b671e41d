"""A call and its tasks: what is owed to one caller."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.gather import gather
from ascend_parallel.batching.plan import Plan

from .processes.scatter import Scatter

_numbers = itertools.count(1)


class Task:
    """One chunk of a call, as it goes to a worker.

    Attributes:
        start: its first row.
        rows: its rows; ``fed_rows`` with padding.
        number: names it in messages; each attempt gets a new one, so that no late answer is taken for another's.
        failures: workers that died over it.
        deadline_s: when the worker that runs it is taken for hung; inf while it waits.
    """

    __slots__ = ("call", "deadline_s", "failures", "fed_rows", "index", "number", "rows", "start")

    def __init__(self, call: Call, index: int) -> None:
        self.call = call
        self.index = index
        self.start, stop = call.plan.chunks[index]
        self.rows = stop - self.start
        self.fed_rows = call.plan.batch.fixed_rows or self.rows
        self.number = 0
        self.failures = 0
        self.deadline_s = float("inf")

    def renumber(self) -> int:
        """Give the task the number of its next attempt."""
        self.number = next(_numbers)
        return self.number


class Call:
    """One predict: its tasks, their answers, and who is to be told.

    Attributes:
        scattered: the shared memory that its tasks name; held until the last worker is done with it.
        error: why it failed; None while it did not.
        has_callbacks: whether telling its caller may run the caller's own code; its owner says so.
        is_recorded: whether it takes :meth:`note_answer`; see trace.py.
        timeout_s: how long each task may take; None: as the runner says.
    """

    is_recorded = False

    def __init__(self, plan: Plan, scattered: Scatter, on_done: Callable[[Call], None]) -> None:
        self.plan = plan
        self.scattered = scattered
        self.error: Exception | None = None
        self.has_callbacks = False
        self.timeout_s: float | None = None
        self._on_done = on_done
        self._results: list[dict[str, Array] | None] = [None] * len(plan.chunks)
        self._missing = len(plan.chunks)

    @property
    def is_open(self) -> bool:
        """Whether anything is still owed."""
        return self.error is None and self._missing > 0

    def tasks(self) -> Iterator[Task]:
        """Yield the tasks, each when its inputs have been written."""
        for index in self.scattered.write_chunks():
            yield Task(self, index)

    def note_answer(self, task: Task, worker: str, started_ns: int, finished_ns: int) -> None:
        """Take when a worker computed a task; for calls whose times are recorded."""

    def finish(self, task: Task, outputs: dict[str, Array] | None) -> bool:
        """Take the answer to one task (None: it lies in its place); return whether the call is now complete."""
        if outputs is not None:
            self._results[task.index] = outputs
            seen = {name: (array.dtype.str, array.shape) for name, array in outputs.items()}
            self.plan.learn(task.fed_rows, seen)
            self.scattered.place_outputs()
        self._missing -= 1
        return self._missing == 0 and self.error is None

    def fail(self, error: Exception) -> None:
        """Give the call up, unless it is over."""
        if self.is_open:
            self.error = error

    def tell(self) -> None:
        """Tell the caller that the call is over, without locks held; twice, if need be, where it has no callbacks."""
        self._on_done(self)

    def outputs(self) -> Any:
        """Return the outputs of the whole call, a dict or a list as the inputs were, or raise its error."""
        if self.error is not None:
            raise copy.copy(self.error)  # itself would hold this call, and its memory, in a cycle with its traceback
        outputs = gather(self.plan, self.scattered.outputs(), self._results)
        return list(outputs.values()) if self.plan.as_list else outputs
