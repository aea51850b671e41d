"""A call and its tasks: one predict, from its inputs to its outputs."""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.gather import gather
from ascend_parallel.batching.plan import Plan

from .event_loop import EventLoop


class Placement(ABC):
    """Where the inputs and outputs of one call lie; each backend has its own kind.

    Attributes:
        needs_shapes: whether it can place outputs once their shapes are known.
        owns_outputs: whether the caller may write to what it gets; else the arrays are read-only.
    """

    needs_shapes = True
    owns_outputs = True

    @abstractmethod
    def write(self, index: int) -> None:
        """Make the inputs of one chunk ready for a worker; the chunks come in order."""

    @abstractmethod
    def place_outputs(self) -> None:
        """Take memory for the outputs of all chunks, if their shapes are known by now and it was not taken yet."""

    @abstractmethod
    def outputs(self) -> Mapping[str, Array]:
        """Return the arrays into which the chunks' outputs are written, by name; none if shapes are not known."""


class Task:
    """One chunk of a call, as a worker runs it.

    Attributes:
        index: the chunk's place in the call.
        start: its first row.
        rows: its rows.
        fed_rows: its rows with padding.
        number: names it in messages; each attempt has a new one, so that no late reply is taken for another's.
        failures: how many workers died while they ran it.
        deadline_s: when it is overdue (``time.monotonic``); inf while it waits.
    """

    __slots__ = ("call", "deadline_s", "failures", "fed_rows", "index", "number", "rows", "start")

    def __init__(self, call: Call, index: int) -> None:
        plan = call.plan
        self.call = call
        self.index = index
        self.start, stop = plan.chunks[index]
        self.rows = stop - self.start
        self.fed_rows = plan.batch.fixed_rows or self.rows
        self.number = 0
        self.failures = 0
        self.deadline_s = float("inf")


class Call:
    """One predict: its tasks, their outputs, and how its caller is notified.

    Attributes:
        plan: how it is done.
        placement: where its inputs and outputs lie; held until the last worker is done with it.
        on_done: called when it is completed, in a thread of the backend's or in ``loop``; None where the caller waits.
        loop: the event loop that waits for it; None where a thread does.
        has_callback: whether ``on_done`` is called in a thread of the backend's.
        error: why it failed; None while it did not.
        is_open: whether anything is still owed.
        is_led: whether its caller receives its replies itself, and looks at ``is_open`` after each.
        is_recorded: whether it takes :meth:`note_written` and :meth:`note_reply`; see ``runner/trace.py``.
        timeout_s: how long each task may run; None: as the runner says, which the backend sets.
        max_retries: how often a task is sent to another worker after its own died; None: as the runner says.
    """

    is_recorded = False

    def __init__(
        self,
        plan: Plan,
        placement: Placement,
        on_done: Callable[[Call], None] | None = None,
        loop: EventLoop | None = None,
    ) -> None:
        self.plan = plan
        self.placement = placement
        self.on_done = on_done
        self.loop = loop
        self.has_callback = on_done is not None and loop is None
        self.error: Exception | None = None
        self.timeout_s: float | None = None
        self.max_retries: int | None = None
        self.is_open = True
        self.is_led = False
        self._missing = len(plan.chunks)
        self._results: list[dict[str, Array] | None] | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def note_written(self, index: int) -> None:
        """Take the time at which the inputs of a chunk were ready; only recorded calls have a use for it."""

    def note_reply(self, task: Task, worker: str, started_ns: int, finished_ns: int) -> None:
        """Take the times between which a worker computed a task; likewise."""

    def complete(self, task: Task, outputs: dict[str, Array] | None) -> bool:
        """Take the outputs of one task; return whether the call is now completed.

        Args:
            task: one of the call's.
            outputs: None where they were written to the placement's arrays.
        """
        if outputs is not None:
            if self._results is None:
                self._results = [None] * len(self.plan.chunks)
            self._results[task.index] = outputs
            if self.placement.needs_shapes:
                seen = {name: (array.dtype.str, array.shape) for name, array in outputs.items()}
                self.plan.learn(task.fed_rows, seen)
                self.placement.place_outputs()
        self._missing -= 1
        if self._missing or self.error is not None:
            return False
        self.is_open = False
        return True

    def fail(self, error: Exception) -> None:
        """Fail the call, unless it is completed."""
        if self.is_open:
            self.error = error
            self.is_open = False

    def notify(self) -> None:
        """Tell the caller that the call is completed; no lock is held. An interrupt may make this happen twice."""
        if self.loop is not None:
            self.loop.put(self)
            self.loop.deliver()
        elif self.on_done is not None:
            self.on_done(self)
        elif self._done.locked():
            self._done.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait for :meth:`notify`; return whether it came."""
        return self._done.acquire(timeout=timeout_s)

    def outputs(self) -> Any:
        """Return the outputs of the whole call, a dict or a list as the inputs were, or raise its error."""
        if self.error is not None:
            raise copy.copy(self.error)  # itself would hold this call, and its memory, in a cycle with its traceback
        outputs = gather(self.plan, self.placement.outputs(), self._results)
        if not self.placement.owns_outputs:
            for array in outputs.values():
                array.flags.writeable = False
        return list(outputs.values()) if self.plan.as_list else outputs


def fail_calls(calls: Sequence[Call], error: Exception, lock: AbstractContextManager[Any]) -> None:
    """Fail those of the calls that are open, under the lock, and notify their callers without it."""
    with lock:
        failed = [call for call in dict.fromkeys(calls) if call.is_open]
        for call in failed:
            call.fail(error)
    for call in failed:
        call.notify()
