"""joblib with its loky backend: large arrays are sent as memory maps, and a worker's first task creates the session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from . import session
from .job import WORKERS, Feeds, Job


class Joblib:
    """``Parallel`` as a context manager, so that its workers are kept between calls."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._call = Parallel(n_jobs=WORKERS, batch_size=1)
        self._stream = Parallel(n_jobs=WORKERS, batch_size=1, return_as="generator")
        self._call.__enter__()

    def predict(self, feeds: Feeds) -> Any:
        """Run one call."""
        task = delayed(session.load_and_run)
        return np.concatenate(self._call(task(self._job.model, half) for half in self._job.halves(feeds)))

    def stream(self, batches: Iterator[Feeds]) -> Iterator[Any]:
        """Yield the results of many batches."""
        task = delayed(session.load_and_run)
        return self._stream(task(self._job.model, feeds) for feeds in batches)

    def close(self) -> None:
        """End the workers."""
        self._call.__exit__(None, None, None)
