"""``concurrent.futures`` and loky: executors whose initializer creates the session."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import numpy as np

from . import session
from .job import WORKERS, Feeds, Job


class ProcessPool:
    """``concurrent.futures.ProcessPoolExecutor``."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._executor = self._open(job.model)

    def _open(self, model: str) -> Executor:
        return ProcessPoolExecutor(WORKERS, initializer=session.load, initargs=(model,))

    def predict(self, feeds: Feeds) -> Any:
        """Run one call."""
        return np.concatenate(list(self._executor.map(session.run, self._job.halves(feeds))))

    def stream(self, batches: Iterator[Feeds]) -> Iterator[Any]:
        """Yield the results of many batches."""
        return self._executor.map(session.run, batches)

    def close(self) -> None:
        """End the workers."""
        self._executor.shutdown()


class Loky(ProcessPool):
    """loky's reusable executor."""

    def _open(self, model: str) -> Executor:
        import loky

        return loky.get_reusable_executor(WORKERS, timeout=None, initializer=session.load, initargs=(model,))
