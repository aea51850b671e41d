"""Ray: an actor has the session; arrays are sent through the object store."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray

from . import session
from .job import WORKERS, Feeds, Job

#: Batches of a stream in flight per actor: one being computed, one queued.
QUEUED = 2


@ray.remote(num_cpus=1)
class Predictor:
    """An actor with a session."""

    def __init__(self, model: str) -> None:
        self._session = session.open_session(model, 1)

    def run(self, feeds: Feeds) -> Any:
        """Run the session."""
        return self._session.run(None, feeds)[0]


class RayActors:
    """One actor per core."""

    def __init__(self, job: Job) -> None:
        self._job = job
        os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")  # no telemetry, no files left
        self._folder = tempfile.mkdtemp(prefix="ray-")
        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, _temp_dir=self._folder)
        self._actors = [Predictor.remote(job.model) for _ in range(WORKERS)]

    def predict(self, feeds: Feeds) -> Any:
        """Run one call."""
        halves = self._job.halves(feeds)
        return np.concatenate(ray.get([a.run.remote(half) for a, half in zip(self._actors, halves, strict=True)]))

    def stream(self, batches: Iterator[Feeds]) -> Iterator[Any]:
        """Yield the results of many batches."""
        waiting: deque[Any] = deque()
        for i, feeds in enumerate(batches):
            waiting.append(self._actors[i % WORKERS].run.remote(feeds))
            if len(waiting) >= QUEUED * WORKERS:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())

    def close(self) -> None:
        """End the actors and Ray's own processes."""
        ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)
