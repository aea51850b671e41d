"""A pipeline as a server has it: under a name and a version, like a model."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import OverloadedError, ServingError
from ascend_parallel.serving.batcher import describe_fault
from ascend_parallel.serving.error_text import reason_of
from ascend_parallel.serving.failure_log import FailureLog
from ascend_parallel.serving.observed_batcher import Observer
from ascend_parallel.serving.request import LARGE_BYTES, InferRequest
from ascend_parallel.serving.served import Served
from ascend_parallel.serving.served_model import ServedModel
from ascend_parallel.worker.engines import TensorSpec

from .config import PipelineConfig
from .graph import REQUEST, Values, Wiring
from .pipeline_run import PipelineRun, Step
from .runs import Runs
from .served_op import make_ops
from .tensors import make_tensors


class ServedPipeline(Served):
    """One version of a pipeline. All methods run in the event loop's thread."""

    takes_text = True

    def __init__(self, config: PipelineConfig, observers: Sequence[Observer] = ()) -> None:
        """Prepare; nothing is started. The configuration was checked."""
        super().__init__(config.name, config.version)
        self.paddle_service = config.paddle_service or ""
        self.graph = config.graph()
        self._steps = {
            op.name: Step(op.name, served, retries=op.retry, by_op=op.is_by_op)
            for op, served in zip(config.ops, make_ops(config, observers), strict=True)
        }
        self._timeout_s = config.timeout_ms / 1000
        self._runs = Runs(self.graph, self._steps, config.max_queue_size, self._take)
        self._observers = observers
        self._failures: FailureLog | None = None
        self.output_names = _find_names(self.graph.answer)

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
            await self._unload_ops()
            self.state, self.reason = "UNAVAILABLE", str(error)
            raise
        self._runs.set_room()
        self._failures = FailureLog(self.name, self.version, asyncio.get_running_loop())
        self.state, self.reason = "READY", ""

    async def unload(self, timeout_s: float) -> None:
        """Answer the requests that it has, for at most ``timeout_s``; then end the workers."""
        self.state, self.reason = "UNLOADING", "is being unloaded"
        await self._runs.drain(timeout_s)
        self.give_up()
        await self._unload_ops()
        self.state, self.reason = "UNAVAILABLE", "unloaded"

    async def _unload_ops(self) -> None:
        """End the workers; no request is left."""
        await asyncio.gather(*[op.unload(0.0) for op in self.parts], return_exceptions=True)

    def give_up(self) -> None:
        """Fail all requests that it has."""
        self._runs.fail_all(OverloadedError(f"pipeline {self.name!r} was unloaded before the request was answered"))

    # ---- requests

    def add(self, request: InferRequest) -> None:
        """Begin a request; raises OverloadedError where the pipeline is full or not ready."""
        if self.state != "READY":
            raise OverloadedError(f"pipeline {self.name!r} version {self.version} {self.reason}")
        request.rows = 1
        request.deadline_s = min(request.deadline_s, request.arrived_s + self._timeout_s)
        for observer in self._observers:
            observer.begin_request(self.name, self.version, request)
        try:
            self._runs.add(request)
        except OverloadedError as error:
            self._note_failure(request, error)
            request.error = error
            self._tell(request, time.monotonic())
            raise

    def cancel(self, request: InferRequest) -> None:
        """Drop a request whose client is gone: ops that have not begun it will not."""
        if self._runs.cancel(request):
            request.is_done = True
            request.error = ServingError("the client is gone")
            self.stats.count_failure("canceled")
            self._tell(request, time.monotonic())

    def _take(self, run: PipelineRun, outputs: Values | None, error: Exception | None) -> None:
        """Answer a request that is done."""
        request = run.request
        found: dict[str, Any] | None = None
        if error is None:
            found, error = self._finish(request, outputs or {})
        if error is not None:
            self.stats.count_failure(reason_of(error))
            if not run.is_logged:
                self._note_failure(request, error)
        now_s = time.monotonic()
        request.answer(found, error, now_s)
        if error is None:
            self.stats.count_answered(request)
        self._tell(request, now_s)

    def _finish(self, request: InferRequest, outputs: Values) -> tuple[dict[str, Any] | None, Exception | None]:
        """Return what a client gets, or why it gets nothing."""
        if request.wants_values:
            return dict(outputs), None
        try:
            return dict(make_tensors(self.graph.answer, outputs)), None
        except Exception as error:
            return None, describe_fault(error)

    def _note_failure(self, request: InferRequest, error: Exception) -> None:
        """Log a failure, unless it is the client's."""
        reason = reason_of(error)
        if self._failures is not None and reason != "invalid":
            self._failures.add(request, reason, error)

    def _tell(self, request: InferRequest, now_s: float) -> None:
        request.done_s = now_s
        for observer in self._observers:
            observer.note_request(self.name, self.version, request, None)

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
        """How many requests it has that no worker computes just now."""
        return self._runs.waiting

    @property
    def running(self) -> int:
        """How many tasks the workers of all ops have."""
        return sum(op.running for op in self.parts)

    @property
    def max_rows(self) -> int:
        """0: rows of several requests are not joined by the pipeline, but by its ops."""
        return 0


def _find_names(answer: Wiring) -> list[str] | None:
    """Return the names of the outputs, where the configuration gives all of them."""
    names = [source.name or source.output for source in answer]
    return [name for name in names if name is not None] if None not in names else None
