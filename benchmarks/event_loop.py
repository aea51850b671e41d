"""Calls from an asyncio program: predict_async beside the future of submit, and beside a plain predict.

    python benchmarks/event_loop.py [--workers processes] [--calls 300] [--rounds 25]

The model is the identity on two simulated devices that compute for no time; a call is one row of 4 KiB. The sides take
turns in one run. "One by one" awaits each call before the next; "64 in flight" keeps so many under way. The baseline is
``asyncio.wrap_future(runner.submit(...))`` in the same loop, which is what one would write without predict_async. CPU
time is that of all threads of this process; it tells more than the clock where other programs run, too.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from ascend_parallel import ParallelPredictUtils

X = {"x": np.zeros((1, 1024), np.float32)}
IN_FLIGHT = 64
BASELINE = "submit and wrap_future, asyncio"


class Cost(NamedTuple):
    """What a call takes: microseconds from its start to the next, and of this process's CPU time."""

    wall_us: float
    cpu_us: float


Start = Callable[[], Awaitable[Any]]


async def one_by_one(start: Start, calls: int) -> None:
    """Await each call before the next."""
    for _ in range(calls):
        await start()


async def many(start: Start, calls: int) -> None:
    """Keep :data:`IN_FLIGHT` callers busy."""

    async def call_on() -> None:
        for _ in range(calls // IN_FLIGHT + 1):
            await start()

    await asyncio.gather(*[call_on() for _ in range(IN_FLIGHT)])


def sides(runner: ParallelPredictUtils) -> dict[str, Callable[[Any, int], None]]:
    """Return name -> function that makes so many calls, in one of the two ways above."""

    def wrapped() -> Awaitable[Any]:
        return asyncio.wrap_future(runner.submit(X))

    def direct() -> Awaitable[Any]:
        return runner.predict_async(X)

    def predict(way: Any, calls: int) -> None:
        if way is one_by_one:
            for _ in range(calls):
                runner.predict(X)
        else:
            for _ in runner.map(X for _ in range(calls)):
                pass

    return {
        BASELINE: lambda way, calls: asyncio.run(way(wrapped, calls)),
        "predict_async, asyncio": lambda way, calls: asyncio.run(way(direct, calls)),
        "submit and wrap_future, uvloop": lambda way, calls: uvloop.run(way(wrapped, calls)),
        "predict_async, uvloop": lambda way, calls: uvloop.run(way(direct, calls)),
        "no loop: predict; map": predict,
    }


def measure(runner: ParallelPredictUtils, calls: int, rounds: int) -> dict[str, list[list[Cost]]]:
    """Return what a call costs in each round, for each side: one by one, and many in flight."""
    found: dict[str, list[list[Cost]]] = {name: [[], []] for name in sides(runner)}
    for number in range(rounds + 1):
        for name, run in sides(runner).items():
            for place, way in enumerate((one_by_one, many)):
                wall_s, cpu_s = time.perf_counter(), time.process_time()
                run(way, calls)
                spent_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
                if number:  # the first round warms up
                    found[name][place].append(Cost(*[s / calls * 1e6 for s in spent_s]))
    return found


def show(workers: str, found: dict[str, list[list[Cost]]]) -> None:
    """Print what a call costs, and how many times less than the baseline's: medians, and quartiles of the rounds."""
    table = Table(
        title=f"workers={workers!r}; times: the baseline's, {BASELINE}, over the side's", title_justify="left"
    )
    for column in (
        "",
        "one by one, us",
        "times",
        "CPU us",
        "times",
        f"{IN_FLIGHT} in flight, us",
        "times",
        "CPU us",
        "times",
    ):
        table.add_column(column, justify="right" if column else "left")
    for name, both in found.items():
        cells = []
        for base, own in zip(found[BASELINE], both, strict=True):
            for place in range(len(Cost._fields)):
                ratios = [b[place] / o[place] for b, o in zip(base, own, strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                cells += [
                    f"{statistics.median([o[place] for o in own]):.0f}",
                    f"{middle:.2f} ({low:.2f} to {high:.2f})",
                ]
        table.add_row(name, *cells)
    Console(width=180).print(table)


def main() -> None:
    """Run the sides in turn and print a table for each kind of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", choices=["processes", "threads"], action="append")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    for workers in arguments.workers or ["processes", "threads"]:
        with ParallelPredictUtils(
            "simulated", engine="simulated", devices="simulated:0,1", chunk_size=1, workers=workers
        ) as runner:
            show(workers, measure(runner, arguments.calls, arguments.rounds))


if __name__ == "__main__":
    main()
