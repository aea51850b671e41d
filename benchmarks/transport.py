"""Transport: a call through ascend_parallel and the same call with pickled arrays over pipes, in one run.

The baseline is a reimplementation of MindSpore Lite's sample for several cards: one process per device, started with
multiprocessing, that receives (message, arrays) from a Pipe and sends (message, arrays) back. Both sides run the
identity on two workers, so only the transport is measured. Each side runs in a process of its own, as in a user's
script, and a new one for each size: the state of one side's allocator must not affect the other. The rounds of all
sides alternate.

    python benchmarks/transport.py [--rounds N]
"""

from __future__ import annotations

import argparse
import contextlib
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
SIDES = ("pickled pipe", "ours", "one memcpy")
WARM_UP = 5
#: Name, bytes per call, calls per round. 760 KiB is a call of Stable Diffusion 2.1's UNet.
SIZES = (("4 KiB", 4 << 10, 400), ("760 KiB", 760 << 10, 100), ("16 MiB", 16 << 20, 30), ("64 MiB", 64 << 20, 8))
#: The goal for each size: times faster than the baseline.
GOALS = {"4 KiB": 1.0, "760 KiB": 12.0, "16 MiB": 25.0, "64 MiB": 25.0}


def identity(device: str) -> Callable[[Any], Any]:
    """Return the model of this benchmark; the runner loads it as ``transport.py:identity``."""
    return lambda inputs: inputs


def serve(pipe: Connection) -> None:
    """Run a worker of the baseline."""
    while True:
        kind, arrays = pipe.recv()
        if kind == EXIT:
            return
        pipe.send((REPLY, arrays))


class Baseline:
    """Two processes and two pipes with pickled arrays."""

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
        """Send half of the rows to each worker, and receive them back."""
        for pipe, rows in zip(self._pipes, np.array_split(x, WORKERS), strict=True):
            pipe.send((PREDICT, [rows]))
        return [pipe.recv()[1] for pipe in self._pipes]

    def close(self) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send((EXIT, None))
            process.join()


def median_ms(call: Callable[[], Any], times: int) -> float:
    """Return the median time of a call, in milliseconds."""
    times_s = []
    for _ in range(times):
        started_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s) * 1e3


def drive(side: str, size_bytes: int, times: int, requests: Connection) -> None:
    """Run one side: answer each request with the median of a round of calls."""
    x = np.ones((WORKERS, size_bytes // (WORKERS * 4)), np.float32)
    with contextlib.ExitStack() as stack:
        if side == "pickled pipe":
            baseline = Baseline()
            stack.callback(baseline.close)
            call: Callable[[], Any] = lambda: baseline.predict(x)  # noqa: E731
        elif side == "ours":
            here = f"{os.path.abspath(__file__)}:identity"
            runner = stack.enter_context(ParallelPredictUtils(here, devices=f"cpu:0-{WORKERS - 1}"))
            call = lambda: runner.predict({"x": x})  # noqa: E731
        else:
            y = np.empty_like(x)
            call = lambda: np.copyto(y, x)  # noqa: E731
        median_ms(call, WARM_UP)
        while requests.recv():
            requests.send(median_ms(call, times))


def measure(size_bytes: int, times: int, rounds: int) -> dict[str, float]:
    """Return each side's median in milliseconds, over alternating rounds."""
    fresh = multiprocessing.get_context("spawn")
    pipes = {}
    for side in SIDES:
        pipes[side], far = fresh.Pipe()
        fresh.Process(target=drive, args=(side, size_bytes, times, far)).start()
        far.close()
    samples: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, pipe in pipes.items():
            pipe.send(True)
            samples[side].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    return {side: statistics.median(values) for side, values in samples.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="alternating rounds per size (default: 9)")
    rounds = parser.parse_args().rounds
    table = Table(
        title=f"one call on {WORKERS} workers, identity, median ms ({os.cpu_count()} cores, "
        f"Python {platform.python_version()}, numpy {np.__version__})"
    )
    for title in ("size", *SIDES[:2], "times faster", "goal", SIDES[2], "ours / memcpy"):
        table.add_column(title, justify="right")
    for name, size_bytes, times in SIZES:
        theirs, ours, copy = measure(size_bytes, times, rounds).values()
        table.add_row(
            name,
            f"{theirs:.3f}",
            f"{ours:.3f}",
            f"{theirs / ours:.1f}",
            f"{GOALS[name]:g}",
            f"{copy:.3f}",
            f"{ours / copy:.1f}" if size_bytes > 1 << 20 else "-",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
