"""A pipeline as a server has it: under a name and a version, like a model."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import AscendParallelError, DeadlineError, OverloadedError
from ascend_parallel.serving.observed_batcher import Observer
from ascend_parallel.serving.request import INF, LARGE_BYTES, InferRequest
from ascend_parallel.serving.served import Served
from ascend_parallel.serving.served_model import ServedModel
from ascend_parallel.worker.engines import TensorSpec

from .config import PipelineConfig
from .graph import REQUEST, Values
from .pipeline_run import PipelineRun, Step
from .served_op import make_op


class ServedPipeline(Served):
    """One version of a pipeline. All methods run in the event loop's thread."""

    takes_text = True

    def __init__(self, config: PipelineConfig, observers: Sequence[Observer] = ()) -> None:
        """Prepare; nothing is started. The configuration was checked."""
        super().__init__(config.name, config.version)
        self.graph = config.graph()
        self._steps = {
            op.name: Step(op.name, make_op(config, op, observers), retries=op.retry, by_op=_is_by_op(op.interface))
            for op in config.ops
        }
        self._max_runs = config.max_queue_size
        self._timeout_s = config.timeout_ms / 1000
        self._runs: dict[InferRequest, PipelineRun] = {}
        self._idle: list[asyncio.Future[None]] = []
        self._deadline_timer: asyncio.TimerHandle | None = None

    @property
    def parts(self) -> Sequence[ServedModel]:
        """The ops."""
        return [step.served for step in self._steps.values()]

    # ---- life

    async def load(self) -> None:
        """Start all ops at the same time; raises the first failure."""
        self.state, self.reason = "LOADING", "is being loaded"
        tasks = [asyncio.ensure_future(op.load()) for op in self.parts]
        try:
            await asyncio.gather(*tasks)
        except BaseException as error:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._unload_ops(0.0)
            self.state, self.reason = "UNAVAILABLE", str(error)
            raise
        self.state, self.reason = "READY", ""

    async def unload(self, timeout_s: float) -> None:
        """Answer the requests that it has, for at most ``timeout_s``; then end the workers."""
        self.state, self.reason = "UNLOADING", "is being unloaded"
        if self._runs:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(done)
            await asyncio.wait([done], timeout=timeout_s)
            self.give_up()
        await self._unload_ops(0.0)
        self.state, self.reason = "UNAVAILABLE", "unloaded"

    async def _unload_ops(self, timeout_s: float) -> None:
        await asyncio.gather(*[op.unload(timeout_s) for op in self.parts], return_exceptions=True)

    def give_up(self) -> None:
        """Fail all requests that it has."""
        error = OverloadedError(f"pipeline {self.name!r} was unloaded before the request was answered")
        for run in list(self._runs.values()):
            run.fail(error)

    # ---- requests

    def add(self, request: InferRequest) -> None:
        """Begin a request; raises OverloadedError where the pipeline is full or not ready."""
        if self.state != "READY":
            raise OverloadedError(f"pipeline {self.name!r} version {self.version} {self.reason}")
        if len(self._runs) >= self._max_runs:
            raise OverloadedError(f"the pipeline is full: it has {len(self._runs)} requests; try again later")
        request.rows = 1
        request.sent_s = request.arrived_s
        request.deadline_s = min(request.deadline_s, request.arrived_s + self._timeout_s)
        run = self._runs[request] = PipelineRun(self.graph, self._steps, request, self._take)
        run.start()
        if request in self._runs and self._deadline_timer is None:
            self._set_deadline_timer()

    def cancel(self, request: InferRequest) -> None:
        """Drop a request whose client is gone: ops that have not begun it will not."""
        run = self._runs.pop(request, None)
        if run is not None:
            request.is_done = True
            run.cancel()
            self.stats.count_failure("canceled")
            self._note_idle()

    def _take(self, run: PipelineRun, outputs: Values | None, error: Exception | None) -> None:
        """Answer a request that is done."""
        request = run.request
        del self._runs[request]
        now_s = time.monotonic()
        if error is not None:
            self.stats.count_failure(_reason(error))
            request.answer(None, error, now_s)
        else:
            request.answer(dict(outputs or {}), None, now_s)
            self.stats.count_success(request)
        self._note_idle()

    def _note_idle(self) -> None:
        if self._idle and not self._runs:
            for done in self._idle:
                if not done.done():
                    done.set_result(None)
            self._idle.clear()

    # ---- deadlines: those of the ops' queues are checked there; this one covers what is between

    def _set_deadline_timer(self) -> None:
        next_s = min((request.deadline_s for request in self._runs), default=INF)
        self._deadline_timer = None
        if next_s < INF:
            delay_s = max(0.0, next_s - time.monotonic())
            self._deadline_timer = asyncio.get_running_loop().call_later(delay_s, self._check_deadlines)

    def _check_deadlines(self) -> None:
        now_s = time.monotonic()
        for request, run in list(self._runs.items()):
            if request.deadline_s <= now_s:
                waited_ms = (now_s - request.arrived_s) * 1e3
                run.fail(DeadlineError(f"the request was not answered in time: it has spent {waited_ms:.0f} ms"))
        self._set_deadline_timer()

    # ---- memory for inputs

    def empty_block(self, size_bytes: int) -> Array:
        """Return shared memory in which the workers read inputs in place; raises AscendParallelError, OSError."""
        return self._first_op().empty_block(size_bytes)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return memory for an input: if it is large, where the workers read it without a further copy."""
        if math.prod(shape) * dtype.itemsize >= LARGE_BYTES:
            return self._first_op().empty(shape, dtype)
        return np.empty(shape, dtype)

    def _first_op(self) -> ServedModel:
        return self._steps[self.graph.readers[REQUEST][0]].served

    # ---- what it is

    @property
    def is_ready(self) -> bool:
        """Whether it is loaded, and each op has a worker."""
        return self.state == "READY" and all(op.is_ready for op in self.parts)

    def worker_stats(self) -> dict[str, Any]:
        """Return the figures of no worker: those of the ops have them."""
        for op in self.parts:
            op.worker_stats()  # raises where it cannot compute
        return {"workers": {}, "shared_memory": {"mapped_bytes": 0}}

    @property
    def platform(self) -> str:
        """What computes, as the protocol's metadata has it."""
        return "ascend_parallel_pipeline"

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """None are told: Python may take anything."""
        return ()

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Likewise."""
        return ()

    @property
    def devices(self) -> list[str]:
        """The devices of all ops."""
        return list(dict.fromkeys(device for op in self.parts for device in op.devices))

    @property
    def capacity(self) -> int:
        """How many tasks the workers of all ops compute at the same time."""
        return sum(op.capacity for op in self.parts)

    @property
    def waiting(self) -> int:
        """How many requests it has that no worker computes just now, at least."""
        return max(0, len(self._runs) - self.running)

    @property
    def running(self) -> int:
        """How many tasks the workers of all ops have."""
        return sum(op.running for op in self.parts)

    @property
    def max_rows(self) -> int:
        """0: rows of several requests are not joined by the pipeline, but by its ops."""
        return 0


def _is_by_op(interface: str) -> bool:
    return interface == "paddle_serving"


def _reason(error: Exception) -> str:
    """Return the label of a failure in the metrics."""
    status = error.http_status if isinstance(error, AscendParallelError) else 500
    return {504: "timeout", 503: "rejected"}.get(status, "invalid" if status < 500 else "error")
