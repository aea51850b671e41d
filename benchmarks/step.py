"""A step of guidance, two rows on two devices of 40 ms: the host overhead, and what this machine adds in any case.

    python benchmarks/step.py [--ms 40] [--calls 25] [--rounds 6]

The baseline is two bare processes under a bare master: a few lines of Python each, which receive 100 bytes over a pipe,
sleep, and send 100 bytes back. A second baseline also copies the inputs row by row into memory, which every sender must
do at least. The sides take turns in one run. The overhead of a step is its time minus the devices' own. With --ms 0,
the calls follow each other immediately, with warm caches.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from ascend_parallel import ParallelPredictUtils

DEVICES = 2
MESSAGE = bytes(100)
#: A call of Stable Diffusion 2.1's UNet: 760 KiB.
INPUTS = {
    "sample": np.zeros((DEVICES, 4, 64, 64), np.float32),
    "timestep": np.zeros(1, np.float32),
    "encoder_hidden_states": np.zeros((DEVICES, 77, 1024), np.float32),
}
_PR_SET_TIMERSLACK = 29


def serve(requests: int, replies: int, compute_s: float) -> None:
    """Run a bare worker: read, sleep, write. As in the simulated engine, the sleep ends on time."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    while os.read(requests, len(MESSAGE)):
        if compute_s:
            time.sleep(compute_s)
        os.write(replies, MESSAGE)
    os._exit(0)


class Bare:
    """Two bare workers; it forks, so it must be created before any threads."""

    def __init__(self, compute_s: float) -> None:
        self._targets = {name: np.empty_like(array) for name, array in INPUTS.items()}
        self._workers: list[tuple[int, int]] = []
        self._epoll = select.epoll()
        for _ in range(DEVICES):
            requests, to_worker = os.pipe()
            from_worker, replies = os.pipe()
            if os.fork() == 0:
                for fd in (to_worker, *(fd for fd, _ in self._workers)):
                    os.close(fd)  # otherwise no worker would see the end of its pipe
                serve(requests, replies, compute_s)
            os.close(requests)
            os.close(replies)
            self._workers.append((to_worker, from_worker))
            self._epoll.register(from_worker, select.EPOLLIN)

    def step(self) -> None:
        """Run a call without any data."""
        for to_worker, _ in self._workers:
            os.write(to_worker, MESSAGE)
        self._receive()

    def copying_step(self) -> None:
        """Run a call that copies each worker's rows before it sends the message."""
        for row, (to_worker, _) in enumerate(self._workers):
            for name, array in INPUTS.items():
                part = slice(row, row + 1) if len(array) == DEVICES else slice(None)
                self._targets[name][part] = array[part]
            os.write(to_worker, MESSAGE)
        self._receive()

    def _receive(self) -> None:
        missing = DEVICES
        while missing:
            for fd, _ in self._epoll.poll():
                os.read(fd, len(MESSAGE))
                missing -= 1

    def close(self) -> None:
        """End the workers."""
        for to_worker, from_worker in self._workers:
            os.close(to_worker)
            os.close(from_worker)
            os.wait()
        self._epoll.close()


@contextlib.contextmanager
def open_sides(compute_s: float) -> Iterator[dict[str, Callable[[], object]]]:
    """Yield name -> function that runs a call."""
    bare = Bare(compute_s)
    try:
        with ParallelPredictUtils(
            "simulated",
            engine="simulated",
            devices=f"simulated:0-{DEVICES - 1}",
            engine_options={"ms_per_row": compute_s * 1000},
            batch_axes={"timestep": None},
        ) as runner:
            in_place = {name: runner.empty(array.shape, array.dtype) for name, array in INPUTS.items()}
            for name, array in INPUTS.items():
                in_place[name][...] = array
            yield {
                "bare processes, nothing sent": bare.step,
                "bare processes, inputs copied": bare.copying_step,
                "ascend_parallel": lambda: runner.predict(INPUTS),
                "ascend_parallel, inputs from runner.empty": lambda: runner.predict(in_place),
            }
    finally:
        bare.close()


def overheads_us(step: Callable[[], object], calls: int, compute_s: float) -> list[float]:
    """Return the time of each call minus the devices' own, in microseconds."""
    overheads = []
    for _ in range(calls):
        started_s = time.perf_counter()
        step()
        overheads.append((time.perf_counter() - started_s - compute_s) * 1e6)
    return overheads


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ms", type=float, default=40.0, help="compute time of a device per row (default: 40)")
    parser.add_argument("--calls", type=int, default=25, help="calls per side and round (default: 25)")
    parser.add_argument("--rounds", type=int, default=6, help="alternating rounds (default: 6)")
    arguments = parser.parse_args()
    compute_s = arguments.ms / 1000
    with open_sides(compute_s) as sides:
        overheads_by_side: dict[str, list[float]] = {name: [] for name in sides}
        for step in sides.values():
            overheads_us(step, 5, compute_s)
        for _ in range(arguments.rounds):
            for name, step in sides.items():
                overheads_by_side[name].append(statistics.median(overheads_us(step, arguments.calls, compute_s)))
    table = Table(
        title=f"a step on {DEVICES} devices of {arguments.ms:g} ms: overhead, median and range over the rounds"
    )
    for title in ("", "us", "%"):
        table.add_column(title, justify="right" if title else "left")
    for name, overheads in overheads_by_side.items():
        middle = statistics.median(overheads)
        share = f"{middle / (compute_s * 1e4):.2f}" if compute_s else ""
        table.add_row(name, f"{middle:.0f} ({min(overheads):.0f} to {max(overheads):.0f})", share)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
