"""A server under fire: workers killed at random, a hang, the end under load, slow clients, and its memory.

Each scenario starts ``ascend-parallel serve`` with a model on two CPU workers, or a pipeline of three ops on five, and
clients that check each answer: its id, its status and every number. A line per scenario says what was seen; the exit
code is 1 if anything was lost, wrong or answered twice.

    python benchmarks/serving_under_fire.py [--scenarios kills,hang,end,crowd,memory,pipeline-kills] [--scale 0.1]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop
from fire.clients import Client, Tally, ask_on
from fire.crowd import Crowd
from fire.process import HANGS, ServedProcess, resident_mib, serve, write_model
from sides.options import choose

#: Clients of the load, each on a connection of its own.
CLIENTS = 64
#: Clients beside them that connect anew for each request, while the server ends.
NEWCOMERS = 16
#: A killed worker takes about 0.3 s to be replaced: some kills hit one that is still starting.
KILL_EVERY_S = (0.1, 2.0)
HANG_TIMEOUT_S = 1.5
CROWD_CLIENTS, IDLE, SLOW = 16, 1000, 200
#: Resident memory may grow so much once the first tenth of the requests is answered, in MiB a process.
MAX_GROWTH_MIB = 4.0


def main() -> None:
    """Run the scenarios, print a line for each, and exit with 1 if one found something."""
    arguments = read_arguments()
    problems = 0
    with tempfile.TemporaryDirectory(prefix="under-fire-") as folder:
        model = write_model(Path(folder))
        for name in arguments.scenarios:
            seen, found = SCENARIOS[name](model, arguments.scale)
            print(f"{name}: {seen}", flush=True)
            for problem in found:
                print(f"  PROBLEM: {problem}", flush=True)
            problems += len(found)
    sys.exit(1 if problems else 0)


def read_arguments() -> argparse.Namespace:
    """Return the arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="some of %(default)s; default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="0.1: a tenth of the time; default: 1")
    arguments = parser.parse_args()
    arguments.scenarios = choose(parser, "--scenarios", arguments.scenarios, SCENARIOS)
    if not 0 < arguments.scale <= 10:
        parser.error("--scale must be above 0, and at most 10")
    return arguments


Seen = tuple[str, list[str]]


def kill_workers(model: str, scale: float, *, pipeline: bool = False) -> Seen:
    """Load for 60 s, while workers are killed at random."""

    async def fire(server: ServedProcess) -> tuple[Tally, int]:
        tally, kills, end_s = Tally(), 0, time.monotonic() + 60 * scale
        load = asyncio.gather(*[Client(server.port, tally).run_until(end_s) for _ in range(CLIENTS)])
        while time.monotonic() < end_s - 1:
            await asyncio.sleep(random.uniform(*KILL_EVERY_S))
            workers = server.workers()
            for pid in random.sample(workers, min(1, len(workers))):
                os.kill(pid, signal.SIGKILL)
                kills += 1
        await load
        return tally, kills

    with serve(model, pipeline=pipeline) as server:
        tally, kills = uvloop.run(fire(server))
        found = tally.problems() + server.compare_counts(tally)
    return f"{kills} workers killed; {tally}", found


def cut_a_hang(model: str, scale: float, *, pipeline: bool = False) -> Seen:
    """Load beside requests that hang: each of these is cut at the timeout, and all others are answered.

    In the pipeline they hang in an op beside the others, which are computed once more, and it alone.
    """
    which = ("doubles", HANGS) if pipeline else ("hangs", 1.0)
    longest_s = (3 if pipeline else 2) * HANG_TIMEOUT_S

    async def fire(server: ServedProcess) -> tuple[Tally, list[float]]:
        tally, end_s, cut = Tally(), time.monotonic() + max(10 * scale, 2 * HANG_TIMEOUT_S), []
        load = asyncio.gather(*[Client(server.port, tally).run_until(end_s) for _ in range(CLIENTS)])
        while time.monotonic() < end_s - HANG_TIMEOUT_S:
            before_s = time.monotonic()
            status = await ask_on(server.port, *which)
            cut.append(time.monotonic() - before_s)
            if status != 504:
                tally.wrong.append(f"the request that hangs was answered with {status}")
        await load
        return tally, cut

    with serve(model, pipeline=pipeline, hangs_timeout_s=HANG_TIMEOUT_S) as server:
        tally, cut = uvloop.run(fire(server))
    found = tally.problems()
    if max(cut) > longest_s:
        found.append(f"a hang was cut after {max(cut):.1f} s")
    return f"{len(cut)} hangs cut after {statistics.median(cut):.2f} s (timeout {HANG_TIMEOUT_S} s); {tally}", found


def end_under_load(model: str, scale: float, *, pipeline: bool = False) -> Seen:
    """SIGTERM under load, with new connections all the time: what was sent on a connection is answered."""
    total, exits = Tally(), []

    async def fire(server: ServedProcess) -> None:
        until_s = time.monotonic() + 60
        clients = [Client(server.port, total).run_until(until_s) for _ in range(CLIENTS)]
        newcomers = [Client(server.port, total, keeps=False).run_until(until_s) for _ in range(NEWCOMERS)]
        load = asyncio.gather(*clients, *newcomers)  # each ends when its connection is refused
        await asyncio.sleep(random.uniform(0.5, 1.5))
        server.process.send_signal(signal.SIGTERM)
        before_s = time.monotonic()
        await load
        exits.append(time.monotonic() - before_s)

    rounds = max(1, round(10 * scale))
    for _ in range(rounds):
        with serve(model, pipeline=pipeline, drain_timeout_s=4) as server:
            uvloop.run(fire(server))
            if server.process.wait(60):
                total.wrong.append(f"the server ended with exit code {server.process.returncode}")
    ends = f"{rounds} ends, each after {statistics.median(exits):.1f} s"
    return f"{ends}; {total}; {total.refused} connections refused", total.problems()


def stand_a_crowd(model: str, scale: float) -> Seen:
    """Load alone, and beside idle and slow connections, in turn."""

    async def load(server: ServedProcess, tally: Tally) -> float:
        end_s, tally.times_s = time.monotonic() + max(1.0, 5 * scale), []
        await asyncio.gather(*[Client(server.port, tally).run_until(end_s) for _ in range(CROWD_CLIENTS)])
        return statistics.quantiles(tally.times_s, n=100)[-1]

    tally, alone, beside = Tally(), [], []
    with serve(model) as server, Crowd(multiprocessing.get_context("spawn"), server.port, IDLE, SLOW) as crowd:
        uvloop.run(load(server, tally))  # caches, and the second worker
        for turn in range(max(2, round(12 * scale))):
            for is_beside in (turn % 2 == 0, turn % 2 == 1):
                crowd.gather() if is_beside else crowd.scatter()
                (beside if is_beside else alone).append(uvloop.run(load(server, tally)))
    ratios = [b / a for a, b in zip(alone, beside, strict=True)]
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    p99 = f"p99 {statistics.median(alone) * 1e3:.2f} ms alone, {statistics.median(beside) * 1e3:.2f} ms beside"
    what = f"{IDLE} idle and {SLOW} slow connections: {p99}, ratio {middle:.2f} ({low:.2f} to {high:.2f})"
    return f"{what}; {tally}", tally.problems()


def watch_memory(model: str, scale: float, *, pipeline: bool = False) -> Seen:
    """200,000 requests; the memory of the server and its workers after a tenth of them, and at the end."""
    wanted = round(200_000 * scale)

    async def fire(server: ServedProcess) -> tuple[Tally, list[float], list[float]]:
        tally = Tally()

        async def load(count: int) -> list[float]:
            await asyncio.gather(*[Client(server.port, tally).run_times(count // CLIENTS) for _ in range(CLIENTS)])
            return [resident_mib(pid) for pid in (server.process.pid, *sorted(server.workers()))]

        early = await load(wanted // 10)
        return tally, early, await load(wanted - wanted // 10)

    with serve(model, pipeline=pipeline) as server:
        tally, early, late = uvloop.run(fire(server))
        found = tally.problems() + server.compare_counts(tally)
    shown = ", ".join(f"{a:.1f} -> {b:.1f}" for a, b in zip(early, late, strict=True))
    grown = max(b - a for a, b in zip(early, late, strict=True))
    if grown > MAX_GROWTH_MIB:
        found.append(f"memory grew by {grown:.1f} MiB")
    return f"MiB of the server and its workers: {shown}; {tally}", found


SCENARIOS: dict[str, Callable[[str, float], Seen]] = {
    "kills": kill_workers,
    "hang": cut_a_hang,
    "end": end_under_load,
    "crowd": stand_a_crowd,
    "memory": watch_memory,
    "pipeline-kills": functools.partial(kill_workers, pipeline=True),
    "pipeline-hang": functools.partial(cut_a_hang, pipeline=True),
    "pipeline-end": functools.partial(end_under_load, pipeline=True),
    "pipeline-memory": functools.partial(watch_memory, pipeline=True),
}

if __name__ == "__main__":
    main()
