"""All requests of one pipeline: those that its ops compute, and those that wait for room in the graph."""

from __future__ import annotations

from collections.abc import Mapping

from ascend_parallel.errors import DeadlineError, OverloadedError
from ascend_parallel.serving.deadlines import Deadlines
from ascend_parallel.serving.request import InferRequest

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
        self._deadlines = Deadlines(lambda: self._runs, self._fail_late)

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
        if request.deadline_s < self._deadlines.next_s:
            self._deadlines.watch(request.deadline_s)
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
        await self._deadlines.drain(timeout_s)

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
        self._deadlines.note_done()

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

    def _fail_late(self, request: InferRequest, now_s: float) -> None:
        """Fail a request that is late: ops fail those that they have; one may be waiting, too."""
        waited_ms = (now_s - request.arrived_s) * 1e3
        run = self._runs[request]
        text = f"the request was not answered in time: it has spent {waited_ms:.0f} ms, and {run.describe()}"
        run.fail(DeadlineError(text))
