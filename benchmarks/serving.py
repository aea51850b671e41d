"""Serving: the same models behind HTTP, by ascend_parallel and by other servers, on two cores, in one run.

Each server is started for one model at a time and tuned as its documentation tells: two workers, batches of at most 16
rows, raw or binary bodies where it takes them. One answer is compared with ONNX Runtime's own result. Then wrk, on the
same cores, sends the same request over 1, 16 and 64 connections. In every round all servers take their turn, so a ratio
compares two measurements of one round; above 1, ascend_parallel is ahead. The tables show the median over the rounds.

    make bench-serving      installs all servers, prints the tables, writes the section and the plot of the README
    python benchmarks/serving.py [--models mlp,cnn] [--servers ours,mosec] [--rounds 5] [--seconds 2] [--save]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from servers import report
from servers.job import WORKERS, Job
from servers.load import Sample, measure, write_script
from servers.models import MODELS, write_job
from servers.options import add_venvs, check_machine
from servers.process import adopt_orphans, running
from servers.registry import SERVERS
from servers.server import Server, ServerError
from sides.options import choose, read_numbers
from sides.report import tables

#: The first requests fill caches, start the second worker, and let servers allocate.
WARM_UP_CONNECTIONS, WARM_UP_S = 16, 1


def main() -> None:
    """Measure, print, and with --save update the README."""
    arguments = read_arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:WORKERS])  # inherited by all that is started
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers end, too
    started_s, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="serving-") as folder:
        try:
            results = {name: measure_model(name, arguments, Path(folder)) for name in arguments.models}
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
    minutes = (time.monotonic() - started_s) / 60
    conditions = (
        f"Measured on {report.conditions(arguments.servers, arguments.venvs)}, in {minutes:.0f} minutes: "
        f"{arguments.rounds} rounds of {arguments.seconds} s; load average at the start {load:.1f}."
    )
    console = Console(width=200)
    for table in tables(report.sheets(results)):
        console.print(table)
    console.print(conditions)
    if arguments.save:
        report.save(results, conditions)
    if failed := [name for name in arguments.servers if not all(rounds.get(name) for rounds in results.values())]:
        sys.exit(f"error: no measurement of {', '.join(failed)} for some model; the reasons are above")


def read_arguments() -> argparse.Namespace:
    """Return the command line's arguments; exit with one sentence if something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ", ".join
    parser.add_argument("--models", default=",".join(MODELS), help=f"which models: {names(MODELS)} (default: all)")
    parser.add_argument("--servers", default=",".join(SERVERS), help=f"which servers: {names(SERVERS)} (default: all)")
    parser.add_argument("--connections", default="1,16,64", help="how many at a time (default: 1,16,64)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which all servers take turns (default: 5)")
    parser.add_argument("--seconds", type=int, default=2, help="duration of a measurement, whole seconds (default: 2)")
    add_venvs(parser)
    parser.add_argument("--save", action="store_true", help="write the section and the plot of benchmarks/README.md")
    arguments = parser.parse_args()
    arguments.models = choose(parser, "--models", arguments.models, MODELS)
    arguments.servers = choose(parser, "--servers", arguments.servers, SERVERS)
    arguments.connections = read_numbers(parser, "--connections", arguments.connections)
    if min(arguments.rounds, arguments.seconds, *arguments.connections) < 1:
        parser.error("--rounds, --seconds and --connections must be at least 1")
    kinds = {name: SERVERS[name] for name in arguments.servers}
    check_machine(parser, kinds, arguments.venvs, WORKERS, "bench-serving")
    if arguments.save and importlib.util.find_spec("matplotlib") is None:
        parser.error("--save needs matplotlib, which is not installed: make bench-serving installs it")
    return arguments


def measure_model(name: str, arguments: argparse.Namespace, folder: Path) -> report.ModelResults:
    """Return server -> connections -> the samples of all rounds; a round in which a server failed is left out."""
    job = Job(str(write_job(name, folder)))
    rounds: report.ModelResults = {server: {} for server in arguments.servers}
    for turn in range(arguments.rounds):
        for server in arguments.servers if turn % 2 == 0 else reversed(arguments.servers):
            kind = SERVERS[server]
            print(f"{MODELS[name].model.title}, round {turn + 1}: {kind.title}", file=sys.stderr)
            try:
                rounds[server][turn] = measure_server(kind, job, arguments, folder)
            except ServerError as error:
                print(f"left out of this round: {error}", file=sys.stderr)
    return rounds


def measure_server(kind: type[Server], job: Job, arguments: argparse.Namespace, folder: Path) -> dict[int, Sample]:
    """Start a server, measure it with each number of connections, and end it."""
    with running(kind, job, arguments.venvs, folder) as server:
        script = write_script(server, folder)
        measure(server, script, WARM_UP_CONNECTIONS, WARM_UP_S)
        samples = {count: measure(server, script, count, arguments.seconds) for count in arguments.connections}
        server.check()
    return samples


if __name__ == "__main__":
    main()
