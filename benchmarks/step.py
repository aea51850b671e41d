"""A step of guidance, two rows on two devices of 40 ms: what the host takes of it, and what this machine takes anyway.

    python benchmarks/step.py [--ms 40] [--calls 25] [--rounds 6]

Beside us run two bare processes under a bare master: a few lines of Python each, 100 bytes over a pipe to either, a
sleep, 100 bytes back; and the same with the inputs copied row by row into memory, as whoever sends them must at least.
The sides take turns in one run. A step's loss is its time less the devices' own. With --ms 0 calls follow each other
at once, on caches that are warm.
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


def serve(orders: int, answers: int, compute_s: float) -> None:
    """Be a bare worker: read, sleep, write; a sleep ends in time, as the simulated engine's does."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    while os.read(orders, len(MESSAGE)):
        if compute_s:
            time.sleep(compute_s)
        os.write(answers, MESSAGE)
    os._exit(0)


class Bare:
    """Two bare workers; to be made before there are threads, as it forks."""

    def __init__(self, compute_s: float) -> None:
        self._targets = {name: np.empty_like(array) for name, array in INPUTS.items()}
        self._workers: list[tuple[int, int]] = []
        self._epoll = select.epoll()
        for _ in range(DEVICES):
            orders, to_worker = os.pipe()
            from_worker, answers = os.pipe()
            if os.fork() == 0:
                for fd in (to_worker, *(fd for fd, _ in self._workers)):
                    os.close(fd)  # or no worker would see its end
                serve(orders, answers, compute_s)
            os.close(orders)
            os.close(answers)
            self._workers.append((to_worker, from_worker))
            self._epoll.register(from_worker, select.EPOLLIN)

    def step(self) -> None:
        """Make a call that carries nothing."""
        for to_worker, _ in self._workers:
            os.write(to_worker, MESSAGE)
        self._listen()

    def copying_step(self) -> None:
        """Make a call whose inputs are copied, each worker's rows before it is told."""
        for row, (to_worker, _) in enumerate(self._workers):
            for name, array in INPUTS.items():
                part = slice(row, row + 1) if len(array) == DEVICES else slice(None)
                self._targets[name][part] = array[part]
            os.write(to_worker, MESSAGE)
        self._listen()

    def _listen(self) -> None:
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
    """Yield what makes a call, by name."""
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
                "we": lambda: runner.predict(INPUTS),
                "we, inputs from runner.empty": lambda: runner.predict(in_place),
            }
    finally:
        bare.close()


def losses_us(step: Callable[[], object], calls: int, compute_s: float) -> list[float]:
    """Return what each of some calls takes beyond the devices' own time, in microseconds."""
    losses = []
    for _ in range(calls):
        started_s = time.perf_counter()
        step()
        losses.append((time.perf_counter() - started_s - compute_s) * 1e6)
    return losses


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ms", type=float, default=40.0, help="of a device for a row (default: 40)")
    parser.add_argument("--calls", type=int, default=25, help="of a side in a round (default: 25)")
    parser.add_argument("--rounds", type=int, default=6, help="(default: 6)")
    arguments = parser.parse_args()
    compute_s = arguments.ms / 1000
    with open_sides(compute_s) as sides:
        found: dict[str, list[float]] = {name: [] for name in sides}
        for step in sides.values():
            losses_us(step, 5, compute_s)
        for _ in range(arguments.rounds):
            for name, step in sides.items():
                found[name].append(statistics.median(losses_us(step, arguments.calls, compute_s)))
    table = Table(title=f"a step on {DEVICES} devices of {arguments.ms:g} ms: its loss, median and range of the rounds")
    for title in ("", "us", "%"):
        table.add_column(title, justify="right" if title else "left")
    for name, losses in found.items():
        middle = statistics.median(losses)
        share = f"{middle / (compute_s * 1e4):.2f}" if compute_s else ""
        table.add_row(name, f"{middle:.0f} ({min(losses):.0f} to {max(losses):.0f})", share)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
