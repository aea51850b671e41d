"""What there is to be had: each op's worker code alone, and the same work in a plain Python loop.

``python -m ocr.alone OP SECONDS`` prints the requests a second of an op.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
from servers.server import BENCHMARKS, ServerError

from ascend_parallel.pipelines.op_runner import OpRunner
from ascend_parallel.pipelines.reading import read_pipeline
from ascend_parallel.worker.engines.op import REPLY, OpEngine
from ascend_parallel.worker.ops.packing import Packed, unpack

from .job import EXAMPLE, Detector, OcrJob, Recogniser

WARM_UP_S = 0.3


class Speed(NamedTuple):
    """Requests a second, and the 99th percentile of their times."""

    requests_per_s: float
    p99_ms: float


def run_loop(job: OcrJob, seconds: float) -> Speed:
    """Measure one process that reads page after page, without a server."""
    detector, recogniser = Detector(), Recogniser()
    times_s = []
    end_s = time.perf_counter() + seconds
    for number in itertools.cycle(range(len(job.pages))):
        begun_s = time.perf_counter()
        (texts,) = recogniser.run(detector.run([job.pages[number]]))
        times_s.append(time.perf_counter() - begun_s)
        if sorted(texts) != job.texts[number]:
            raise AssertionError(f"the plain loop read {texts} on page {number}")
        if begun_s > end_s:
            return Speed(len(times_s) / sum(times_s), float(np.percentile(times_s, 99)) * 1e3)
    raise AssertionError


class OpsAlone:
    """The engines that the workers of both ops run, in this process, fed with full batches one after the other."""

    def __init__(self, job: OcrJob) -> None:
        self._engines = {}
        self._sizes: dict[str, int] = {}
        self._batches: dict[str, list[np.ndarray]] = {}
        requests = [{"inputs": {"page": page}} for page in job.pages]
        for op in read_pipeline(EXAMPLE / "config.yml").ops:
            (spec,) = OpRunner(op, threads=1)._specs  # what the worker process is told
            size = self._sizes[op.name] = op.batching.max_batch_size
            request = spec.request
            self._engines[op.name] = OpEngine(request["models"][""], ("cpu", 0), request["options"])
            batches = [requests[first : first + size] for first in range(0, len(requests), size)]
            self._batches[op.name] = [Packed(batch).to_array() for batch in batches]
            answers = [answer["outputs"] for batch in self._batches[op.name] for answer in self._run(op.name, batch)]
            requests = [{"inputs": {"lines": answer["lines"]}} for answer in answers if "lines" in answer]
        if [sorted(answer["texts"]) for answer in answers] != job.texts:
            raise AssertionError("the ops alone read something else")

    def _run(self, op: str, batch: np.ndarray) -> list:
        return unpack(self._engines[op].predict(None, [batch], {})[REPLY])

    def measure(self, op: str, seconds: float) -> float:
        """Return requests a second of an op."""
        engine, batches = self._engines[op], itertools.cycle(self._batches[op])
        count, begun_s = 0, time.perf_counter()
        while time.perf_counter() - begun_s < seconds:
            engine.predict(None, [next(batches)], {})
            count += self._sizes[op]
        return count / (time.perf_counter() - begun_s)


def list_ops() -> list[str]:
    """Return the names of the ops."""
    return [op.name for op in read_pipeline(EXAMPLE / "config.yml").ops]


def measure_op(name: str, seconds: float) -> float:
    """Return requests a second of an op, in a process with the environment of its worker; raises ServerError."""
    (op,) = [op for op in read_pipeline(EXAMPLE / "config.yml").ops if op.name == name]
    (spec,) = OpRunner(op, threads=1)._specs
    path = os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", __name__, name, str(seconds)]
    done = subprocess.run(command, env={**spec.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise ServerError(f"the op {name} alone failed: {done.stderr}")
    return float(done.stdout)


if __name__ == "__main__":
    ops = OpsAlone(OcrJob())
    ops.measure(sys.argv[1], WARM_UP_S)
    print(ops.measure(sys.argv[1], float(sys.argv[2])))
