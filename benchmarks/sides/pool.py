"""``multiprocessing.Pool``."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import session
from .job import WORKERS, Feeds, Job


class Pool:
    """A pool whose initializer creates the session."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._pool = multiprocessing.Pool(WORKERS, initializer=session.load, initargs=(job.model,))

    def predict(self, feeds: Feeds) -> Any:
        """Run one call."""
        return np.concatenate(self._pool.map(session.run, self._job.halves(feeds), chunksize=1))

    def stream(self, batches: Iterator[Feeds]) -> Iterator[Any]:
        """Yield the results of many batches."""
        return self._pool.imap(session.run, batches)

    def close(self) -> None:
        """End the workers."""
        self._pool.close()
        self._pool.join()
