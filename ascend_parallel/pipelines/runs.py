"""All requests of one pipeline: those that its ops compute, and those that wait for room in the graph."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from ascend_parallel.errors import DeadlineError, OverloadedError
from ascend_parallel.serving.request import INF, InferRequest

from .graph import Graph, Values
from .pipeline_run import OnDone, PipelineRun, Step

#: Batches in the graph for each that its workers compute: so the next one is there, and no more lies between ops.
_BATCHES_AHEAD = 2


class Runs:
    """The requests of a pipeline. All methods run in the event loop's thread.

    Ops that are quicker than those behind them would fill the memory with what they give. So no more requests are in
    the graph than keep all workers busy; the others wait before it, with their inputs alone. The first that came is
    the first to begin.
    """

    def __init__(self, graph: Graph, steps: Mapping[str, Step], max_runs: int, on_done: OnDone) -> None:
        """Begin without requests.

        Args:
            graph: of the pipeline.
            steps: its ops.
            max_runs: requests at most.
            on_done: takes the requests that are done.
        """
        self._graph = graph
        self._steps = steps
        self._max_runs = max_runs
        self._max_begun = max_runs
        self._on_done = on_done
        self._runs: dict[InferRequest, PipelineRun] = {}
        self._waiting: dict[InferRequest, PipelineRun] = {}
        self._is_beginning = False
        self._idle: list[asyncio.Future[None]] = []
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._next_deadline_s = INF

    def __len__(self) -> int:
        return len(self._runs)

    def set_room(self) -> None:
        """Find how many requests may be in the graph; called once all ops are built."""
        ops = [step.served for step in self._steps.values()]
        self._max_begun = sum(_BATCHES_AHEAD * op.capacity * op.max_rows for op in ops)

    @property
    def waiting(self) -> int:
        """How many requests no worker has at the moment."""
        return sum(not run.is_computing for run in self._runs.values())

    # ---- requests

    def add(self, request: InferRequest) -> None:
        """Begin a request, or have it wait; raises OverloadedError where there are too many."""
        if len(self._runs) >= self._max_runs:
            raise OverloadedError(
                f"the pipeline is full: it has {len(self._runs)} requests, its max_queue_size; try again later"
            )
        run = self._runs[request] = PipelineRun(self._graph, self._steps, request, self._take)
        if request.deadline_s < self._next_deadline_s:
            self._set_deadline_timer(request.deadline_s)
        self._waiting[request] = run
        self._begin_waiting()

    def cancel(self, request: InferRequest) -> bool:
        """Drop a request: ops that have not begun it will not. Return whether it was there."""
        run = self._runs.get(request)
        if run is None:
            return False
        run.cancel()
        self._remove(request)
        self._go_on()
        return True

    def fail_all(self, error: Exception) -> None:
        """Fail all requests."""
        self._waiting.clear()
        for run in list(self._runs.values()):
            run.fail(error)

    async def drain(self, timeout_s: float) -> None:
        """Wait until all requests are done, for at most so long."""
        if self._runs:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(done)
            await asyncio.wait([done], timeout=timeout_s)

    def _take(self, run: PipelineRun, outputs: Values | None, error: Exception | None) -> None:
        """Pass on what came of a request; there is room for others before its client hears of it."""
        self._remove(run.request)
        self._on_done(run, outputs, error)
        self._go_on()

    def _remove(self, request: InferRequest) -> None:
        self._runs.pop(request, None)
        self._waiting.pop(request, None)

    def _go_on(self) -> None:
        self._begin_waiting()
        if not self._runs:
            for done in self._idle:
                if not done.done():
                    done.set_result(None)
            self._idle.clear()

    def _begin_waiting(self) -> None:
        """Begin requests as long as there is room for them. One that fails at once comes back here by ``_take``."""
        if self._is_beginning:
            return
        self._is_beginning = True
        try:
            while self._waiting and len(self._runs) - len(self._waiting) < self._max_begun:
                request = next(iter(self._waiting))
                self._waiting.pop(request).start()
        finally:
            self._is_beginning = False

    # ---- deadlines: ops check those of the requests that they have; here are those that wait, too

    def _set_deadline_timer(self, deadline_s: float) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._next_deadline_s = deadline_s
        delay_s = max(0.0, deadline_s - time.monotonic())
        self._deadline_timer = asyncio.get_running_loop().call_later(delay_s, self._check_deadlines)

    def _check_deadlines(self) -> None:
        self._deadline_timer = None
        self._next_deadline_s = INF
        now_s = time.monotonic()
        for request, run in list(self._runs.items()):
            if request.deadline_s <= now_s and request in self._runs:
                waited_ms = (now_s - request.arrived_s) * 1e3
                text = f"the request was not answered in time: it has spent {waited_ms:.0f} ms, and {run.describe()}"
                run.fail(DeadlineError(text))
        next_s = min((request.deadline_s for request in self._runs), default=INF)
        if next_s < self._next_deadline_s:  # who was told may have sent a request with an earlier one
            self._set_deadline_timer(next_s)
