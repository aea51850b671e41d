"""Peers: the same models on the same two cores, with ascend_parallel and with the alternatives, in one run.

Three metrics. One call: a batch goes in, its rows are divided between two workers, one array comes out; how long does
it take? A stream: batches with the rows of one worker follow each other; how many results per second are there? CPU
time: how much do all processes together need for a batch of the stream? Each peer is used as its documentation
recommends, in a process of its own, with one thread per worker. Its results are checked against ONNX Runtime's before
it is timed. ascend_parallel and one peer take turns, so that a noisy machine affects both. The tables show the median
of the rounds' ratios, and their range.

    make bench-peers        the tables; also writes the section and the plot of this folder's README
    python benchmarks/peers.py [--models unet,cnn] [--peers pool,ray] [--rounds 5] [--seconds 0.2] [--save]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from sides import report
from sides.job import WORKERS
from sides.models import MODELS, write_job
from sides.options import choose
from sides.peers import OURS, PEERS, QUESTIONS, Peer, Rounds
from sides.process import Side, SideError

from ascend_parallel import AscendParallelError


def main() -> None:
    """Measure, print, and with --save update the README."""
    arguments = read_arguments()
    cores = sorted(os.sched_getaffinity(0))[:WORKERS]
    os.sched_setaffinity(0, cores)  # inherited by all processes that are started
    started_s, load = time.perf_counter(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        try:
            results = {name: measure_model(name, arguments, Path(folder)) for name in arguments.models}
        except (SideError, AscendParallelError) as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
    conditions = (
        f"Measured on {report.machine()}, in {time.perf_counter() - started_s:.0f} s: "
        f"{arguments.rounds} rounds of {arguments.seconds:g} s a side; load average at the start {load:.1f}."
    )
    console = Console(width=160)
    for table in report.tables(report.sheets(results)):
        console.print(table)
    console.print(conditions)
    if arguments.save:
        report.save(results, conditions)


def read_arguments() -> argparse.Namespace:
    """Return the command line's arguments; exit with one sentence if something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ", ".join
    parser.add_argument("--models", default=",".join(MODELS), help=f"which models: {names(MODELS)} (default: all)")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"which peers: {names(PEERS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds per pair (default: 5)")
    parser.add_argument("--seconds", type=float, default=0.2, help="duration of a side's measurement (default: 0.2)")
    parser.add_argument(
        "--mslite-python",
        default=os.environ.get("MSLITE_PYTHON", ""),
        help="for the MINDIR models: a Python that has mindspore_lite (default: $MSLITE_PYTHON)",
    )
    parser.add_argument("--save", action="store_true", help="write the section and the plot of benchmarks/README.md")
    arguments = parser.parse_args()
    arguments.models = choose(parser, "--models", arguments.models, MODELS)
    arguments.peers = choose(parser, "--peers", arguments.peers, PEERS)
    if arguments.rounds < 1 or not arguments.seconds > 0:
        parser.error("--rounds must be at least 1 and --seconds more than 0")
    if len(os.sched_getaffinity(0)) < WORKERS:
        parser.error(f"this process may use one core only, but {WORKERS} are needed")
    if any(MODELS[name].mindir_of for name in arguments.models) and not arguments.mslite_python:
        parser.error(
            "the MINDIR models need --mslite-python (a Python 3.7 with mindspore-lite); install one, or select other "
            "models with --models"
        )
    for name in arguments.peers:
        if importlib.util.find_spec(PEERS[name].package) is None:
            parser.error(
                f"{PEERS[name].package} is not installed: run make bench-peers, or leave {name} out with --peers"
            )
    if arguments.save and importlib.util.find_spec("matplotlib") is None:
        parser.error("--save needs matplotlib, which is not installed: make bench-peers installs it")
    return arguments


def measure_model(name: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Rounds]:
    """Return peer -> the rounds of it and of ascend_parallel, for the peers that run this kind of model."""
    is_mindir = bool(MODELS[name].mindir_of)
    peers = [peer for peer in arguments.peers if PEERS[peer].takes_mindir == is_mindir]
    if not peers:
        return {}
    job = write_job(name, folder, arguments.mslite_python)
    python = arguments.mslite_python if is_mindir else sys.executable
    measured = {}
    for which in OURS:
        chosen = [peer for peer in peers if PEERS[peer].ours == which]
        if not chosen:
            continue
        with open_side(OURS[which], job, sys.executable) as ours:
            for peer in chosen:
                print(f"{MODELS[name].title}: {PEERS[peer].title}", file=sys.stderr)
                with open_side(PEERS[peer], job, python) as theirs:
                    measured[peer] = alternate(ours, theirs, arguments.rounds, arguments.seconds)
    return measured


@contextlib.contextmanager
def open_side(peer: Peer, job: Path, python: str) -> Iterator[Side]:
    """Start a side; end it in any case."""
    side = Side(peer.title, peer.side, job, python)
    try:
        yield side
    finally:
        side.close()


def alternate(ours: Side, theirs: Side, rounds: int, seconds: float) -> Rounds:
    """Return metric -> (our, their) milliseconds of each round; the first side alternates."""
    measured: Rounds = {question: [] for question in QUESTIONS}
    for turn in range(rounds):
        sides = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        for question in ("latency", "stream"):
            results_of = {side: side.measure(question, seconds) for side in sides}
            measured[question].append((results_of[ours][0], results_of[theirs][0]))
            if question == "stream":
                measured["cpu"].append((results_of[ours][1], results_of[theirs][1]))
    return measured


if __name__ == "__main__":
    main()
