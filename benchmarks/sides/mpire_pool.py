"""mpire: the model's path is a shared object; ``worker_init`` creates the session in the worker's state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from mpire import WorkerPool

from . import session
from .job import WORKERS, Feeds, Job


def load(model: str, state: dict[str, Any]) -> None:
    """Create the session of this worker."""
    state["session"] = session.open_session(model, 1)


def run(model: str, state: dict[str, Any], feeds: Feeds) -> Any:
    """Run the session of this worker."""
    return state["session"].run(None, feeds)[0]


class Mpire:
    """A pool that keeps its workers between calls."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._pool = WorkerPool(WORKERS, shared_objects=job.model, use_worker_state=True, keep_alive=True)

    def predict(self, feeds: Feeds) -> Any:
        """Run one call."""
        halves = [(half,) for half in self._job.halves(feeds)]  # mpire unpacks a tuple to arguments
        return np.concatenate(
            self._pool.map(run, halves, chunk_size=1, worker_init=load, concatenate_numpy_output=False)
        )

    def stream(self, batches: Iterator[Feeds]) -> Iterator[Any]:
        """Yield the results of many batches."""
        return self._pool.imap(run, ((feeds,) for feeds in batches), chunk_size=1, worker_init=load)

    def close(self) -> None:
        """End the workers."""
        self._pool.stop_and_join()
        self._pool.terminate()
