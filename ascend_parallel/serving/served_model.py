"""One version of a model that is served: its runner, its queue and its state."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ascend_parallel.batching.batch import Array, BatchAxes
from ascend_parallel.errors import AscendParallelError, OverloadedError
from ascend_parallel.files import read_arrays
from ascend_parallel.runner.runner import ParallelPredictUtils
from ascend_parallel.worker.engines import TensorSpec

from .batcher import Batcher, Limits
from .model_config import ModelConfig
from .observed_batcher import ObservedRowBatcher, Observer
from .request import LARGE_BYTES, InferRequest
from .row_batcher import RowBatcher
from .served import Served
from .worker_log import WorkerLog

if TYPE_CHECKING:
    from .images.parts import RunnerPart


class ServedModel(Served):
    """One version of a model.

    Attributes:
        runner: what runs it.
    """

    def __init__(
        self,
        name: str,
        version: str,
        runner: ParallelPredictUtils | RunnerPart,
        *,
        limits: Limits,
        examples: Sequence[Mapping[str, Any]] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        """Prepare; nothing is started.

        Args:
            name: the model's name.
            version: its version.
            runner: what runs it, not built yet.
            limits: what its queue keeps to; a model of fixed size has its own ``max_rows``.
            examples: inputs that are run before it is ready.
            observers: who is told of each request.
        """
        super().__init__(name, version)
        self.runner = runner
        self._limits = limits
        self._examples = examples
        self._observers = observers
        self._batcher: Batcher | None = None
        self._is_closed = False
        self._threads = ThreadPoolExecutor(2, thread_name_prefix=f"ascend-parallel {name}")  # one builds, one closes

    # ---- life

    async def load(self) -> None:
        """Build the model on all devices, and run the examples; raises what the runner raises."""
        self.state, self.reason = "LOADING", "is being loaded"
        try:
            await self._run_in_thread(self._build)
            self._batcher = self._make_batcher()
            if self.shows_workers:
                log = WorkerLog(self.name, self.version, asyncio.get_running_loop())
                self.runner.backend.on_worker_change = log.note
            outputs = self.runner.outputs
            self.output_names = None if outputs is None else [spec.name for spec in outputs]
            for example in self._examples:
                await self.runner.predict_async(example)
        except BaseException as error:
            self.state, self.reason = "UNAVAILABLE", str(error)
            with contextlib.suppress(AscendParallelError):
                await self._close()
            raise
        self.state, self.reason = "READY", ""

    async def _run_in_thread(self, function: Callable[[], None]) -> None:
        """Run a function in a thread of this model's: nobody's end waits for the builds of others."""
        await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def _build(self) -> None:
        """Build the model; called in a thread."""
        self.runner.build_model()
        if self._is_closed:  # before there was anything to close
            self.runner.close()

    async def _close(self) -> None:
        """End the workers, and the threads of this model."""
        if not self._is_closed:
            self._is_closed = True
            await self._run_in_thread(self.runner.close)
            self._threads.shutdown(wait=False)

    def _make_batcher(self) -> Batcher:
        runner = self.runner
        fixed = fixed_rows(runner.inputs, runner.model_of_batches().batch_axes)
        max_rows = fixed or self._limits.max_rows
        model = runner.model_of_batches(max_rows=None if fixed else max_rows)
        self.batch_axes = dict(model.batch_axes)
        arguments = (
            runner.backend,
            model,
            asyncio.get_running_loop(),
            self._limits._replace(max_rows=max_rows),
            runner.capacity,
            self.stats,
        )
        return ObservedRowBatcher(*arguments, observers=self._observers) if self._observers else RowBatcher(*arguments)

    async def unload(self, timeout_s: float) -> None:
        """Answer the requests that it has, for at most ``timeout_s``; then end the workers."""
        self.state, self.reason = "UNLOADING", "is being unloaded"
        if self._batcher is not None:
            await self._batcher.drain(timeout_s)
            self.give_up()
        await self._close()
        self._batcher = None
        self.state, self.reason = "UNAVAILABLE", "unloaded"

    def give_up(self) -> None:
        """Fail all requests that it has."""
        if self._batcher is not None:
            self._batcher.fail_all(OverloadedError(f"model {self.name!r} was unloaded before the request was computed"))

    # ---- requests

    def add(self, request: InferRequest) -> None:
        """Queue a request.

        Raises:
            ShapeError: its inputs do not fit the model.
            OverloadedError: the queue is full, or the model is not ready.
            WorkerError: no worker is left.
        """
        if self._batcher is None or self.state == "LOADING":
            raise OverloadedError(f"model {self.name!r} version {self.version} {self.reason}")
        self._batcher.add(request)

    def cancel(self, request: InferRequest) -> None:
        """Drop a request whose client is gone."""
        if self._batcher is not None:
            self._batcher.cancel(request)

    def empty_block(self, size_bytes: int) -> Array:
        """Return shared memory in which the workers read inputs in place; raises AscendParallelError, OSError."""
        return self.runner.empty(size_bytes, np.uint8)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return memory for an input: if it is large, where the workers read it without a further copy."""
        if math.prod(shape) * dtype.itemsize >= LARGE_BYTES:
            with contextlib.suppress(AscendParallelError):  # it is not ready, which add() tells
                return self.runner.empty(shape, dtype)
        return np.empty(shape, dtype)

    # ---- what it is

    @property
    def is_ready(self) -> bool:
        """Whether it is loaded, and at least one worker is there."""
        if self.state != "READY":
            return False
        with contextlib.suppress(AscendParallelError):
            return any(worker["state"] == "ready" for worker in self.worker_stats()["workers"].values())
        return False

    def worker_stats(self) -> dict[str, Any]:
        """Return what ``ParallelPredictUtils.stats`` does; raises AscendParallelError where nothing can compute."""
        return self.runner.stats()

    @property
    def platform(self) -> str:
        """What computes, as the protocol's metadata has it."""
        return f"ascend_parallel_{self.runner.engine_name}"

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs; none where the model does not tell them, or is not loaded."""
        return (self.runner.inputs or ()) if self.max_rows else ()

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The outputs, likewise."""
        return (self.runner.outputs or ()) if self.max_rows else ()

    @property
    def devices(self) -> list[str]:
        """The devices that it runs on."""
        return [str(device) for device in self.runner.devices]

    @property
    def capacity(self) -> int:
        """Batches that are computed at the same time."""
        return self.runner.capacity

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return 0 if self._batcher is None else self._batcher.waiting

    @property
    def running(self) -> int:
        """How many batches the workers have."""
        return 0 if self._batcher is None else self._batcher.running

    @property
    def max_rows(self) -> int:
        """Rows of a batch at most; 0 before it is loaded."""
        return 0 if self._batcher is None else self._batcher.limits.max_rows


def fixed_rows(inputs: Sequence[TensorSpec] | None, batch_axes: BatchAxes) -> int | None:
    """Return how many rows a model of fixed size takes; None where an input leaves them open, or they differ."""
    sizes = set()
    for spec in inputs or ():
        axis = batch_axes.get(spec.name, 0)
        if axis is not None and spec.shape:
            sizes.add(spec.shape[axis])
    size = sizes.pop() if len(sizes) == 1 else None
    return size if isinstance(size, int) else None


def make_served_model(
    config: ModelConfig, observers: Sequence[Observer] = (), *, limits: Limits | None = None
) -> ServedModel:
    """Return a model as the configuration has it, or with other limits; nothing is started."""
    batching = config.batching
    return ServedModel(
        config.name,
        config.version,
        ParallelPredictUtils(**config.runner_arguments()),
        limits=limits
        or Limits(
            batching.max_batch_size,
            batching.max_queue_delay_ms / 1000,
            batching.max_queue_size,
            batching.timeout_ms / 1000,
        ),
        examples=[read_arrays("warm-up example", Path(path)) for path in config.warmup_examples],
        observers=observers,
    )
