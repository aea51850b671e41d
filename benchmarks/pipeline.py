"""Pipelines: the OCR example by ascend_parallel, by other servers and by a plain loop, on two cores, in one run.

Each server has a process for each of the two ops, and is tuned as its documentation tells. Before and after its
measurement, 16 clients at once send every page, and every answer must hold exactly the texts of its page. Then wrk, on
the same cores, sends all pages over 16 connections. In every round all take their turn, so a ratio compares two
measurements of one round; above 1, ascend_parallel is ahead. The tables show the median over the rounds.

    make bench-pipeline     installs all servers, prints the tables, writes the section of the README
    python benchmarks/pipeline.py [--servers ours,ray] [--rounds 5] [--seconds 3] [--save]
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ocr.alone import list_ops, measure_op, run_loop
from ocr.job import OcrJob
from ocr.load import write_script
from ocr.ours import Ours
from ocr.paddle_serving import PaddleServing
from ocr.ray_serve import RayServe
from ocr.server import OcrServer, check_all
from rich.console import Console
from servers.load import Sample, measure
from servers.options import add_venvs, check_machine
from servers.process import adopt_orphans, running
from servers.report import find_version
from servers.server import ServerError, python_of
from sides.options import choose
from sides.report import README, Sheet, markdown, spread, tables, write_section
from sides.report import machine as describe_machine

OURS, LOOP = "ours", "loop"
SERVERS: dict[str, type[OcrServer]] = {OURS: Ours, "paddle": PaddleServing, "ray": RayServe}
CLIENTS, CORES, WARM_UP_S = 16, 2, 1
#: How often every page is sent and its answer checked, before and after.
CHECK_ROUNDS = 3
GOAL_TIMES, GOAL_OF_SLOWEST = 2.0, 0.95
BEGIN = "<!-- pipeline.py --save writes from here"
#: Server -> round -> what was measured; "loop" and ops by "op NAME", too.
Results = dict[str, dict[int, Sample]]


def main() -> None:
    """Measure, print, and with --save update the README."""
    arguments = read_arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # inherited by all that is started
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers end, too
    started_s, load = time.monotonic(), os.getloadavg()[0]
    job = OcrJob()
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
        try:
            results = measure_all(job, arguments, Path(folder))
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
    minutes = (time.monotonic() - started_s) / 60
    packages = [kind for name, kind in SERVERS.items() if name in arguments.servers and kind.package]
    versions = [
        f"{each.package} {find_version(each.package, python_of(each.venv, arguments.venvs))}" for each in packages
    ]
    conditions = (
        f"Measured on {'; '.join([describe_machine(), ', '.join(versions)])}, in {minutes:.0f} minutes: "
        f"{arguments.rounds} rounds of {arguments.seconds} s, {CLIENTS} clients; load average at the start {load:.1f}."
    )
    console = Console(width=160)
    for table in tables(sheets(results)):
        console.print(table)
    console.print(conditions)
    if arguments.save:
        tuning = [f"- {kind.title}: {kind.tuning}." for name, kind in SERVERS.items() if name in results]
        lines = [conditions, "", *markdown(sheets(results), "medians of the rounds")]
        write_section(README, BEGIN, [*lines, "How each server is tuned:", "", *tuning, ""])
    if failed := [name for name in arguments.servers if not results.get(name)]:
        sys.exit(f"error: no measurement of {', '.join(failed)}; the reasons are above")


def read_arguments() -> argparse.Namespace:
    """Return the command line's arguments; exit with one sentence if something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = ", ".join(SERVERS)
    parser.add_argument("--servers", default=",".join(SERVERS), help=f"which servers: {known} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which all take turns (default: 5)")
    parser.add_argument("--seconds", type=int, default=3, help="duration of a measurement, whole seconds (default: 3)")
    add_venvs(parser)
    parser.add_argument("--save", action="store_true", help="write the section of benchmarks/README.md")
    arguments = parser.parse_args()
    arguments.servers = choose(parser, "--servers", arguments.servers, SERVERS)
    if min(arguments.rounds, arguments.seconds) < 1:
        parser.error("--rounds and --seconds must be at least 1")
    kinds = {name: SERVERS[name] for name in arguments.servers}
    check_machine(parser, kinds, arguments.venvs, CORES, "bench-pipeline")
    return arguments


def measure_all(job: OcrJob, arguments: argparse.Namespace, folder: Path) -> Results:
    """Return what was measured in each round; a round in which a server failed is left out."""
    turns: dict[str, Callable[[], Sample]] = {}
    for name in arguments.servers:
        turns[name] = lambda name=name: measure_server(SERVERS[name], job, arguments, folder)
    turns[LOOP] = lambda: measure_loop(job, arguments.seconds)
    for op in list_ops():
        turns[f"op {op}"] = lambda op=op: Sample(measure_op(op, arguments.seconds), 0, 0, 0)
    results: Results = {name: {} for name in turns}
    for number in range(arguments.rounds):
        for name in turns if number % 2 == 0 else reversed(turns):
            print(f"round {number + 1}: {name}", file=sys.stderr)
            try:
                results[name][number] = turns[name]()
            except ServerError as error:
                print(f"left out of this round: {error}", file=sys.stderr)
    return results


def measure_server(kind: type[OcrServer], job: OcrJob, arguments: argparse.Namespace, folder: Path) -> Sample:
    """Start a server, check all answers, measure it, check all answers again, and end it."""
    with running(kind, job, arguments.venvs, folder) as server:
        check_all(server, CLIENTS, CHECK_ROUNDS)
        script = write_script(server, folder)
        measure(server, script, CLIENTS, WARM_UP_S)
        sample = measure(server, script, CLIENTS, arguments.seconds)
        check_all(server, CLIENTS, CHECK_ROUNDS)
    return sample


def measure_loop(job: OcrJob, seconds: int) -> Sample:
    """Measure the plain loop."""
    speed = run_loop(job, seconds)
    return Sample(speed.requests_per_s, 0, speed.p99_ms, 1e6 / speed.requests_per_s)


# ---- the report


def sheets(results: Results) -> Iterator[Sheet]:
    """Yield the tables: goals, then figures."""
    if results.get(OURS):
        yield goal_sheet(results)
    rows = []
    for name, title in titles(results).items():
        if results[name]:
            sample = Sample(*map(statistics.median, zip(*results[name].values(), strict=True)))
            p99 = f"{sample.p99_ms:.3g} ms" if sample.p99_ms else ""
            cpu = f"{sample.cpu_us:,.0f}" if sample.cpu_us else ""
            rows.append([title, f"{sample.requests_per_s:,.0f}", p99, cpu])
    yield f"Pages, {CLIENTS} clients", ["", "requests/s", "p99", "CPU, us a request"], rows


def goal_sheet(results: Results) -> Sheet:
    """Return how many times better we are in the rounds that have both, and the goals."""
    rows = []
    for name, title in titles(results).items():
        pairs = [(ours, results[name][turn]) for turn, ours in results[OURS].items() if turn in results[name]]
        if name == OURS or not pairs:
            continue
        goal = f"{GOAL_TIMES:g}" if name in SERVERS else ""
        rate = spread([ours.requests_per_s / theirs.requests_per_s for ours, theirs in pairs])
        p99 = spread([theirs.p99_ms / ours.p99_ms for ours, theirs in pairs]) if name in SERVERS else ""
        rows.append([title, rate, goal, p99])
    slowest = [
        ours.requests_per_s / min(results[name][turn].requests_per_s for name in results if name.startswith("op "))
        for turn, ours in results[OURS].items()
    ]
    rows.append(["the slowest op alone", spread(slowest), f"{GOAL_OF_SLOWEST:g}", ""])
    return "ascend_parallel, times the other", ["other", "requests/s", "goal", "p99"], rows


def titles(results: Results) -> dict[str, str]:
    """Return the titles of all that was measured."""
    known = {name: kind.title for name, kind in SERVERS.items()} | {LOOP: "a plain Python loop, no server"}
    return {name: known.get(name, f"{name}, alone, full batches, no pipeline") for name in results}


if __name__ == "__main__":
    main()
