"""One side in a process of its own: builds it, checks its numbers, then measures what it is asked for.

    python -m sides.host NAME JOB.json      (NAME: module:Class in this folder)

Orders come as lines of JSON on stdin, answers go as such to stdout: first ``{"latency_ms", "interval_ms"}`` of a
few calls, or ``{"error"}``; then for each ``{"ask": "latency" | "stream", "calls": n}`` its ``{"ms"}``: the median time
of a call that waits for its result, or the mean time a batch of n that are sent one after the other.
What libraries print goes to stderr. Python 3.7 and numpy.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import signal
import statistics
import sys
import time
from typing import Any, TextIO

import numpy as np

from .job import Job

#: Calls before anything is timed: caches fill, shared memory is made, allocators settle.
WARM_UP = 5


def latency_ms(side: Any, job: Job, calls: int) -> float:
    """Return the median milliseconds of a call: a batch of all workers' rows in, one array out."""
    taken_s = []
    for _ in range(calls):
        started_s = time.perf_counter()
        side.predict(job.feeds)
        taken_s.append(time.perf_counter() - started_s)
    return statistics.median(taken_s) * 1e3


def interval_ms(side: Any, job: Job, calls: int) -> float:
    """Return the mean milliseconds a batch of a stream; each batch has one worker's rows."""
    halves = itertools.cycle(job.halves(job.feeds))
    started_s = time.perf_counter()
    came = sum(1 for _ in side.stream(itertools.islice(halves, calls)))
    taken_s = time.perf_counter() - started_s
    if came != calls:
        raise RuntimeError(f"{came} of {calls} batches came back")
    return taken_s / calls * 1e3


def check(side: Any, job: Job) -> None:
    """Raise where a side computes something else than ONNX Runtime alone, by either way."""
    made = np.asarray(side.predict(job.feeds))
    streamed = np.concatenate(list(side.stream(iter(job.halves(job.feeds)))))
    for what, array in (("a call", made), ("the stream", streamed)):
        if array.shape != job.expected.shape:
            raise RuntimeError(f"{what} gave the shape {array.shape}, expected {job.expected.shape}")
        farthest = float(np.abs(array - job.expected).max())
        if not farthest <= job.tolerance:
            raise RuntimeError(f"{what} is {farthest:g} away from onnxruntime's numbers")


def open_side(name: str, job: Job) -> Any:
    """Build a side by ``module:Class``."""
    module, _, cls = name.partition(":")
    return getattr(importlib.import_module("sides." + module), cls)(job)


def serve(side: Any, job: Job, answers: TextIO) -> None:
    """Answer orders until stdin ends."""
    measures = {"latency": latency_ms, "stream": interval_ms}
    first: dict[str, float] = {}
    for key, measure in (("latency_ms", latency_ms), ("interval_ms", interval_ms)):
        measure(side, job, WARM_UP)
        first[key] = measure(side, job, WARM_UP)
    print(json.dumps(first), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps({"ms": measures[order["ask"]](side, job, order["calls"])}), file=answers, flush=True)


def main() -> None:
    """Be the side that the arguments name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for peers.py, which then ends the orders
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for answers
    job = Job(sys.argv[2])
    try:
        side = open_side(sys.argv[1], job)
        try:
            check(side, job)
            serve(side, job, answers)
        finally:
            side.close()
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
        raise


if __name__ == "__main__":
    main()
