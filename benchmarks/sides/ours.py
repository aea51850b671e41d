"""Ours: the package that this repository holds, with worker processes and with threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ascend_parallel import ParallelPredictUtils

from .job import WORKERS, Feeds, Job


class Ours:
    """``ParallelPredictUtils`` as its README describes it; the model determines the engine."""

    workers = "processes"

    def __init__(self, job: Job) -> None:
        self._runner = ParallelPredictUtils(
            job.model,
            devices=f"cpu:0-{WORKERS - 1}",
            chunk_size=None if job.worker_python else job.rows,  # a MINDIR model has a fixed batch size
            worker_python=job.worker_python or None,
            workers=self.workers,
        )
        self._runner.build_model()

    def predict(self, feeds: Feeds) -> Any:
        """Run one call."""
        return next(iter(self._runner.predict(feeds).values()))

    def stream(self, batches: Iterator[Feeds]) -> Iterator[Any]:
        """Yield the results of many batches."""
        for outputs in self._runner.map(batches):
            yield next(iter(outputs.values()))

    def close(self) -> None:
        """End the workers."""
        self._runner.close()


class OursInThreads(Ours):
    """The same with ``workers="threads"``, for engines that this interpreter can import."""

    workers = "threads"
