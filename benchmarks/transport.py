"""Transport: what a call through us costs beside the same call through pickled pipes and through bare shared memory.

All sides run the identity on two workers, so only the way there and back is measured:

- pipe: pickled arrays over pipes, as MindSpore Lite's sample for several cards does: one process a device, started with
  multiprocessing, that receives (message, arrays) from a Pipe and sends (message, arrays) back.
- bare: shared memory and nothing else, in a few lines of multiprocessing: the master copies the rows of each worker
  into memory that both have mapped and sends 16 bytes over a Pipe; the worker copies its rows into the memory of the
  output and sends 16 bytes back. Nothing is pickled. The result is valid until the next call.
- ours: ``ParallelPredictUtils.predict``.
- memcpy: one copy of the input in this process.

Each side runs in a process of its own, new for each size, as in a user's script: what the calls of one side leave in
the allocator must neither harm nor help another. The rounds of the sides alternate. Times are medians of the rounds; a
ratio is the median of the ratios of the rounds, with its range.

    python benchmarks/transport.py [--rounds 9] [--sizes 4k,760k] [--sides bare,ours]
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from sides.options import choose

from ascend_parallel import ParallelPredictUtils

PREDICT, REPLY, EXIT = 1, 2, 4
WORKERS = 2
WARM_UP = 5
MESSAGE, BYE = bytes(16), b""  # what the bare side sends for a task and for its answer; what ends its workers

Call = Callable[[], Any]


class Size(NamedTuple):
    """The bytes of a call, how often a round makes it, and what is to be reached."""

    title: str
    size_bytes: int
    calls: int
    pipe_goal: float  # times faster than the pickled pipe, at least
    bare_goal: float  # times the bare side's time, at most


SIZES = {
    "4k": Size("4 KiB", 4 << 10, 400, 1.0, 2.0),
    "760k": Size("760 KiB", 760 << 10, 100, 12.0, 1.6),  # a call of Stable Diffusion 2.1's UNet
    "16m": Size("16 MiB", 16 << 20, 30, 25.0, 1.2),
    "64m": Size("64 MiB", 64 << 20, 8, 25.0, 1.05),
}


# ---- the sides


def identity(device: str) -> Callable[[Any], Any]:
    """Return the model of this benchmark; the runner loads it as ``transport.py:identity``."""
    return lambda inputs: inputs


def serve_pipe(pipe: Connection) -> None:
    """Be a worker of the pickled pipe."""
    while True:
        kind, arrays = pipe.recv()
        if kind == EXIT:
            return
        pipe.send((REPLY, arrays))


@contextlib.contextmanager
def open_pipe(x: np.ndarray) -> Iterator[Call]:
    """Two processes and two pipes; arrays are pickled. The result is one array a worker."""
    pipes, processes = [], []
    for _ in range(WORKERS):
        near, far = multiprocessing.Pipe()
        processes.append(multiprocessing.Process(target=serve_pipe, args=(far,), daemon=True))
        processes[-1].start()
        pipes.append(near)

    def call() -> list[np.ndarray]:
        for pipe, rows in zip(pipes, np.array_split(x, WORKERS), strict=True):
            pipe.send((PREDICT, [rows]))
        return [pipe.recv()[1][0] for pipe in pipes]

    yield call
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send((EXIT, None))
        process.join()


def serve_bare(pipe: Connection, source: np.ndarray, target: np.ndarray) -> None:
    """Be a worker of the bare side."""
    while pipe.recv_bytes() != BYE:
        target[...] = source
        pipe.send_bytes(MESSAGE)


def shared_like(x: np.ndarray) -> np.ndarray:
    """Return an array like another, in memory that forked processes share."""
    return np.frombuffer(mmap.mmap(-1, x.nbytes), x.dtype).reshape(x.shape)


@contextlib.contextmanager
def open_bare(x: np.ndarray) -> Iterator[Call]:
    """Two processes, shared memory, and a few bytes over a pipe. The result is valid until the next call."""
    fork = multiprocessing.get_context("fork")  # the workers inherit the memory
    inputs, outputs = shared_like(x), shared_like(x)
    pipes, processes = [], []
    for i in range(WORKERS):
        near, far = fork.Pipe()
        processes.append(fork.Process(target=serve_bare, args=(far, inputs[i], outputs[i]), daemon=True))
        processes[-1].start()
        pipes.append(near)

    def call() -> np.ndarray:
        for i, pipe in enumerate(pipes):
            inputs[i] = x[i]
            pipe.send_bytes(MESSAGE)
        for pipe in pipes:
            pipe.recv_bytes()
        return outputs

    yield call
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send_bytes(BYE)
        process.join()


@contextlib.contextmanager
def open_ours(x: np.ndarray) -> Iterator[Call]:
    """Our runner. The result is the caller's for as long as it is kept."""
    here = f"{os.path.abspath(__file__)}:identity"
    with ParallelPredictUtils(here, devices=f"cpu:0-{WORKERS - 1}") as runner:
        yield lambda: runner.predict({"x": x})["x"]


@contextlib.contextmanager
def open_memcpy(x: np.ndarray) -> Iterator[Call]:
    """One copy in this process."""
    y = np.empty_like(x)

    def call() -> np.ndarray:
        np.copyto(y, x)
        return y

    yield call


SIDES = {"pipe": open_pipe, "bare": open_bare, "ours": open_ours, "memcpy": open_memcpy}


# ---- measuring


def median_ms(call: Call, times: int) -> float:
    """Return the median time of a call in milliseconds."""
    times_s = []
    for _ in range(times):
        started_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s) * 1e3


def drive(side: str, size: Size, orders: Connection) -> None:
    """Be one side: answer each order with the median of a round of calls."""
    x = np.random.default_rng(0).random((WORKERS, size.size_bytes // (WORKERS * 4)), np.float32)
    with SIDES[side](x) as call:
        if not np.array_equal(np.concatenate([*call()]).ravel(), x.ravel()):
            raise RuntimeError(f"{side} does not return its input")
        median_ms(call, WARM_UP)
        while orders.recv():
            orders.send(median_ms(call, size.calls))


def measure(size: Size, sides: list[str], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of a call of each side in each round; the sides take turns."""
    fresh = multiprocessing.get_context("spawn")
    pipes = {}
    for side in sides:
        pipes[side], far = fresh.Pipe()
        fresh.Process(target=drive, args=(side, size, far)).start()
        far.close()
    samples: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, pipe in pipes.items():
            pipe.send(True)
            samples[side].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    return samples


# ---- the table


def ratio(above: list[float] | None, below: list[float] | None) -> str:
    """Return the median and the range of the ratios of the rounds; empty where a side was not run."""
    if above is None or below is None:
        return ""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def row(size: Size, taken: dict[str, list[float]]) -> list[str]:
    """Return the cells of a size."""
    times = [f"{statistics.median(taken[side]):.3f}" if side in taken else "" for side in SIDES]
    pipe, bare, ours, memcpy = (taken.get(side) for side in SIDES)
    by_memcpy = "" if size.size_bytes < 1 << 20 else ratio(ours, memcpy).partition(" ")[0]
    return [
        size.title,
        *times,
        ratio(pipe, ours),
        f"{size.pipe_goal:g}",
        ratio(ours, bare),
        f"{size.bare_goal:g}",
        by_memcpy,
    ]


def read_arguments() -> argparse.Namespace:
    """Return the command line's arguments, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="alternating rounds of each size (default: 9)")
    parser.add_argument("--sizes", default=",".join(SIZES), help="which sizes (default: %(default)s)")
    parser.add_argument("--sides", default=",".join(SIDES), help="which sides (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    arguments.sizes = choose(parser, "--sizes", arguments.sizes, SIZES, ",")
    arguments.sides = choose(parser, "--sides", arguments.sides, SIDES, ",")
    return arguments


def main() -> None:
    """Print the table."""
    arguments = read_arguments()
    table = Table(
        title=f"one call on {WORKERS} workers, identity, median ms ({os.cpu_count()} cores, "
        f"Python {platform.python_version()}, numpy {np.__version__})"
    )
    for title in ("size", *SIDES, "pipe / ours", "goal >=", "ours / bare", "goal <=", "ours / memcpy"):
        table.add_column(title, justify="right")
    for name in arguments.sizes:
        table.add_row(*row(SIZES[name], measure(SIZES[name], arguments.sides, arguments.rounds)))
    Console(width=132).print(table)


if __name__ == "__main__":
    main()
