"""Transport: a call through us against the same call with pickled arrays over pipes, in one run.

The baseline is what MindSpore Lite's sample for several cards does, written anew: one process a device, started with
multiprocessing, that receives (message, arrays) from a Pipe and sends (message, arrays) back. Both sides run the
identity on two workers, so all that is measured is the way there and back. Rounds of both alternate.

    python benchmarks/transport.py [--rounds N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ascend_parallel import ParallelPredictUtils

PREDICT, REPLY, EXIT = 1, 2, 4
WORKERS = 2
#: Name, bytes of the call, calls a round. 760 KiB is a call of Stable Diffusion 2.1's UNet.
SIZES = (("4 KiB", 4 << 10, 400), ("760 KiB", 760 << 10, 100), ("16 MiB", 16 << 20, 10), ("64 MiB", 64 << 20, 4))
#: What each size is to reach: times faster than the baseline.
GOALS = {"4 KiB": 1.0, "760 KiB": 12.0, "16 MiB": 25.0, "64 MiB": 25.0}


def identity(device: str) -> Callable[[Any], Any]:
    """Return the model of this benchmark; named by the runner as ``transport.py:identity``."""
    return lambda inputs: inputs


def serve(pipe: Connection) -> None:
    """Be a worker of the baseline."""
    while True:
        kind, arrays = pipe.recv()
        if kind == EXIT:
            return
        pipe.send((REPLY, arrays))


class Baseline:
    """Two processes and two pipes; arrays are pickled."""

    def __init__(self) -> None:
        self._pipes = []
        self._processes = []
        for _ in range(WORKERS):
            near, far = multiprocessing.Pipe()
            process = multiprocessing.Process(target=serve, args=(far,), daemon=True)
            process.start()
            self._pipes.append(near)
            self._processes.append(process)

    def predict(self, x: np.ndarray) -> list[Any]:
        """Send each worker its half, and receive them again."""
        for pipe, rows in zip(self._pipes, np.array_split(x, WORKERS), strict=True):
            pipe.send((PREDICT, [rows]))
        return [pipe.recv()[1] for pipe in self._pipes]

    def close(self) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send((EXIT, None))
            process.join()


def median_ms(call: Callable[[], Any], times: int) -> float:
    """Return the median time of a call in milliseconds."""
    taken_s = []
    for _ in range(times):
        started_s = time.perf_counter()
        call()
        taken_s.append(time.perf_counter() - started_s)
    return statistics.median(taken_s) * 1e3


def measure(runner: ParallelPredictUtils, baseline: Baseline, size_bytes: int, times: int, rounds: int) -> list[Any]:
    """Return [baseline ms, ours ms, memcpy ms], medians over rounds that alternate."""
    x = np.ones((WORKERS * 2, size_bytes // (WORKERS * 2 * 4)), np.float32)
    y = np.empty_like(x)
    calls = (lambda: baseline.predict(x), lambda: runner.predict({"x": x}), lambda: np.copyto(y, x))
    for call in calls:
        median_ms(call, 3)  # first calls map memory
    taken = [[median_ms(call, times) for call in calls] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds of each size (default 7)")
    rounds = parser.parse_args().rounds
    baseline = Baseline()
    table = Table(title=f"one call on {WORKERS} workers, identity, median ms ({os.cpu_count()} cores, "
                  f"Python {platform.python_version()}, numpy {np.__version__})")
    for title in ("size", "pickled pipe", "ours", "times faster", "goal", "one memcpy", "ours / memcpy"):
        table.add_column(title, justify="right")
    with ParallelPredictUtils(f"{os.path.abspath(__file__)}:identity", devices=f"cpu:0-{WORKERS - 1}") as runner:
        for name, size_bytes, times in SIZES:
            theirs, ours, copy = measure(runner, baseline, size_bytes, times, rounds)
            table.add_row(name, f"{theirs:.3f}", f"{ours:.3f}", f"{theirs / ours:.1f}", f"{GOALS[name]:g}",
                          f"{copy:.3f}", f"{ours / copy:.1f}" if size_bytes > 1 << 20 else "-")
    baseline.close()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
