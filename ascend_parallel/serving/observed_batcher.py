"""A batcher that tells observers of each request and batch: so traces cost nothing where there are none."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ascend_parallel.backends.call import Call, Task
from ascend_parallel.batching.batch import Array

from .batcher import BatchCall, Batcher
from .request import InferRequest
from .row_batcher import RowBatcher

_numbers = itertools.count(1)


class TaskTimes(NamedTuple):
    """What one worker computed of a batch; times are ``time.perf_counter_ns``, the clock of ``time.monotonic``.

    Attributes:
        worker: its label.
        rows: how many.
        started_ns: when the engine began.
        finished_ns: when the outputs were there.
    """

    worker: str
    rows: int
    started_ns: int
    finished_ns: int


class ObservedCall(BatchCall):
    """The call of one batch, with when and where it was computed.

    Attributes:
        number: counts the batches of the server.
        tasks: those that were computed; several where a request was split.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.number = next(_numbers)
        self.tasks: list[TaskTimes] = []

    def note_reply(self, task: Task, worker: str, started_ns: int, finished_ns: int) -> None:
        """Note when a worker computed a task."""
        super().note_reply(task, worker, started_ns, finished_ns)
        self.tasks.append(TaskTimes(worker, task.rows, started_ns, finished_ns))


class Observer(Protocol):
    """Who is told; all methods are called in the event loop's thread."""

    def begin_request(self, model: str, version: str, request: InferRequest) -> None:
        """Take a request of a pipeline, and note in it what its ops' requests are to be known by."""

    def note_request(self, model: str, version: str, request: InferRequest, call: ObservedCall | None) -> None:
        """Take a request that was answered; the call computed it, None where none did, as that of a pipeline."""

    def note_batch(self, model: str, version: str, call: ObservedCall) -> None:
        """Take a batch that is over."""

    def close(self) -> None:
        """Write what was taken; called in another thread, when the server has ended."""


class Observed(Batcher):
    """A queue that is observed."""

    call_class = ObservedCall

    def __init__(self, *args: Any, observers: Sequence[Observer], **more: Any) -> None:
        super().__init__(*args, **more)
        self._observers = observers
        self._name = self._stats.name, self._stats.version

    def take_batch(self, call: Call) -> None:
        """Take a batch that is computed, or has failed."""
        assert isinstance(call, ObservedCall)
        is_ours = call in self._in_flight
        super().take_batch(call)
        if is_ours:
            for observer in self._observers:
                observer.note_batch(*self._name, call)

    def _answer(self, request: InferRequest, call: BatchCall, outputs: dict[str, Array], now_s: float) -> None:
        was_done = request.is_done
        super()._answer(request, call, outputs, now_s)
        if not was_done:
            assert isinstance(call, ObservedCall)
            self._tell(request, call)

    def _fail(self, request: InferRequest, error: Exception, now_s: float) -> None:
        was_done = request.is_done
        super()._fail(request, error, now_s)
        if not was_done:
            self._tell(request, None)

    def _tell(self, request: InferRequest, call: ObservedCall | None) -> None:
        for observer in self._observers:
            observer.note_request(*self._name, request, call)


class ObservedRowBatcher(Observed, RowBatcher):
    """The queue of one model, observed."""
