"""Runs one side in a process of its own: builds it, checks its results, and measures on request.

    python -m sides.host NAME JOB.json      (NAME: module:Class in this folder)

Requests are lines of JSON on stdin, replies are lines of JSON on stdout. The first reply is ``{"latency_ms",
"interval_ms"}`` of a few calls, or ``{"error"}``. The reply to ``{"ask": "latency" | "stream", "calls": n}`` is
``{"ms"}``: the median time of a call that waits for its result, or the mean time per batch of a stream of n batches.
The output of libraries goes to stderr. Python 3.7 and numpy.
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

#: Calls before the measurement: caches are filled, shared memory is allocated.
WARM_UP = 5


def latency_ms(side: Any, job: Job, calls: int) -> float:
    """Return the median milliseconds per call: a batch with the rows of all workers in, one array out."""
    times_s = []
    for _ in range(calls):
        started_s = time.perf_counter()
        side.predict(job.feeds)
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s) * 1e3


def interval_ms(side: Any, job: Job, calls: int) -> float:
    """Return the mean milliseconds per batch of a stream; each batch has the rows of one worker."""
    halves = itertools.cycle(job.halves(job.feeds))
    started_s = time.perf_counter()
    count = sum(1 for _ in side.stream(itertools.islice(halves, calls)))
    elapsed_s = time.perf_counter() - started_s
    if count != calls:
        raise RuntimeError(f"{count} of {calls} batches came back")
    return elapsed_s / calls * 1e3


def check(side: Any, job: Job) -> None:
    """Check that both methods of a side compute the same as ONNX Runtime alone; raises RuntimeError."""
    predicted = np.asarray(side.predict(job.feeds))
    streamed = np.concatenate(list(side.stream(iter(job.halves(job.feeds)))))
    for what, array in (("a call", predicted), ("the stream", streamed)):
        if array.shape != job.expected.shape:
            raise RuntimeError(f"{what} returned the shape {array.shape}; expected {job.expected.shape}")
        difference = float(np.abs(array - job.expected).max())
        if not difference <= job.tolerance:
            raise RuntimeError(f"{what} differs from onnxruntime's result by {difference:g}")


def open_side(name: str, job: Job) -> Any:
    """Build the side ``module:Class``."""
    module, _, cls = name.partition(":")
    return getattr(importlib.import_module("sides." + module), cls)(job)


def serve(side: Any, job: Job, replies: TextIO) -> None:
    """Reply to requests until stdin ends."""
    measures = {"latency": latency_ms, "stream": interval_ms}
    first: dict[str, float] = {}
    for key, measure in (("latency_ms", latency_ms), ("interval_ms", interval_ms)):
        measure(side, job, WARM_UP)
        first[key] = measure(side, job, WARM_UP)
    print(json.dumps(first), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps({"ms": measures[request["ask"]](side, job, request["calls"])}), file=replies, flush=True)


def main() -> None:
    """Run the side that the arguments name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # peers.py handles Ctrl-C, and then closes stdin
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of libraries must not mix with replies
    job = Job(sys.argv[2])
    try:
        side = open_side(sys.argv[1], job)
        try:
            check(side, job)
            serve(side, job, replies)
        finally:
            side.close()
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=replies, flush=True)
        raise


if __name__ == "__main__":
    main()
