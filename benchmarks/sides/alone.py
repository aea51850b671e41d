"""ONNX Runtime in one process: no data is sent, and only threads divide the work."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .job import WORKERS, Feeds, Job
from .session import open_session


class TwoThreads:
    """A session that divides each operator between its threads."""

    threads = WORKERS

    def __init__(self, job: Job) -> None:
        self._session = open_session(job.model, self.threads)

    def predict(self, feeds: Feeds) -> Any:
        """Run the whole batch at once."""
        return self._session.run(None, feeds)[0]

    def stream(self, batches: Iterator[Feeds]) -> Iterator[Any]:
        """Yield the results of many batches, one after the other."""
        return map(self.predict, batches)

    def close(self) -> None:
        """Do nothing: there is nothing to end."""


class Default(TwoThreads):
    """A session with ONNX Runtime's default number of threads."""

    threads = 0


class TwoCallers:
    """One session with one thread, called by two threads: ``run`` is thread-safe and releases the GIL."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._session = open_session(job.model, 1)
        self._executor = ThreadPoolExecutor(WORKERS)

    def _run(self, feeds: Feeds) -> Any:
        return self._session.run(None, feeds)[0]

    def predict(self, feeds: Feeds) -> Any:
        """Run one call."""
        return np.concatenate(list(self._executor.map(self._run, self._job.halves(feeds))))

    def stream(self, batches: Iterator[Feeds]) -> Iterator[Any]:
        """Yield the results of many batches."""
        return self._executor.map(self._run, batches)

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown()
