"""The ops of a pipeline, as they run: models, and Python in worker processes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ascend_parallel.backends.worker_environment import threads_of_each
from ascend_parallel.runner.options import choose_engine
from ascend_parallel.serving.batcher import Batcher, Limits
from ascend_parallel.serving.observed_batcher import Observer
from ascend_parallel.serving.served_model import ServedModel, make_served_model

from .config import OpConfig, PipelineConfig
from .op_batcher import ObservedOpBatcher, OpBatcher
from .op_runner import OpRunner, count_workers


class PythonOp(ServedModel):
    """An op with Python, around a model or alone."""

    takes_text = True

    def __init__(
        self, name: str, version: str, op: OpConfig, limits: Limits, threads: int, observers: Sequence[Observer]
    ) -> None:
        """Prepare; nothing is started.

        Args:
            name: as it is counted.
            version: of the pipeline.
            op: its settings.
            limits: what its queue keeps to.
            threads: of each worker process.
            observers: who is told of each request.
        """
        super().__init__(name, version, OpRunner(op, threads), limits=limits, observers=observers)
        self._by_op = op.is_by_op
        self._has_model = op.path is not None

    def _make_batcher(self) -> Batcher:
        runner = self.runner
        kind: Any = OpBatcher
        more: dict[str, Any] = {}
        if self._observers:
            kind, more = ObservedOpBatcher, {"observers": self._observers}
        batcher: Batcher = kind(
            runner.backend,
            asyncio.get_running_loop(),
            self._limits,
            runner.capacity,
            self.stats,
            by_op=self._by_op,
            has_model=self._has_model,
            **more,
        )
        return batcher


def make_ops(pipeline: PipelineConfig, observers: Sequence[Observer] = ()) -> list[ServedModel]:
    """Return the ops of a pipeline, in the order of the configuration; nothing is started.

    All ops of a pipeline are busy at the same time, so each worker has its share of the cores among all of them.
    """
    threads = threads_of_each(sum(count_workers(op) for op in pipeline.ops))
    return [_make_op(pipeline, op, threads, observers) for op in pipeline.ops]


def _make_op(pipeline: PipelineConfig, op: OpConfig, threads: int, observers: Sequence[Observer]) -> ServedModel:
    name = f"{pipeline.name}/{op.name}"
    batching = op.batching
    limits = Limits(
        batching.max_batch_size,
        batching.max_queue_delay_ms / 1000,
        pipeline.max_queue_size,
        pipeline.timeout_ms / 1000,
        op.timeout_ms / 1000,
    )
    if op.python is None:
        own = {"threads": threads} if choose_engine([str(op.path)], op.engine).spreads_over_cores else {}
        model = op.model().model_copy(
            update={"name": name, "version": pipeline.version, "engine_options": {**own, **op.engine_options}}
        )
        return make_served_model(model, observers, limits=limits)
    return PythonOp(name, pipeline.version, op, limits, threads, observers)
