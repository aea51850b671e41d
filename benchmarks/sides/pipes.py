"""The sample of MindSpore Lite's tutorial for several cards: a process per card, and arrays pickled over a Pipe."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from . import session
from .job import WORKERS, Feeds, Job

PREDICT, REPLY, EXIT = 1, 2, 4


def serve(pipe: Connection, model: str) -> None:
    """Run a worker."""
    session.load(model)
    while True:
        kind, feeds = pipe.recv()
        if kind == EXIT:
            return
        pipe.send((REPLY, session.run(feeds)))


class Pipes:
    """Sends all workers their inputs, then waits for all results: the sample has no more than that in flight."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._pipes = []
        self._processes = []
        for _ in range(WORKERS):
            near, far = multiprocessing.Pipe()
            process = multiprocessing.Process(target=serve, args=(far, job.model), daemon=True)
            process.start()
            self._pipes.append(near)
            self._processes.append(process)

    def _run_predict(self, inputs_of_each: list[Feeds]) -> list[Any]:
        for pipe, feeds in zip(self._pipes, inputs_of_each, strict=False):
            pipe.send((PREDICT, feeds))
        return [pipe.recv()[1] for pipe, _ in zip(self._pipes, inputs_of_each, strict=False)]

    def predict(self, feeds: Feeds) -> Any:
        """Run one call."""
        return np.concatenate(self._run_predict(self._job.halves(feeds)))

    def stream(self, batches: Iterator[Feeds]) -> Iterator[Any]:
        """Yield the results of many batches, two at a time."""
        while pair := [feeds for _, feeds in zip(range(WORKERS), batches, strict=False)]:
            yield from self._run_predict(pair)

    def close(self) -> None:
        """End the workers."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send((EXIT, None))
            process.join()
