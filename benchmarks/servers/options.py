"""What the benchmarks of servers share of their command lines."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from .server import Server, python_of


def add_venvs(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the servers' Pythons."""
    parser.add_argument(
        "--venvs",
        type=lambda text: Path(text).absolute(),
        default=os.environ.get("VENVS", ".venvs"),
        help="the folder with the servers' venvs (default: $VENVS, else .venvs)",
    )


def check_machine(
    parser: argparse.ArgumentParser, servers: Mapping[str, type[Server]], venvs: Path, cores: int, target: str
) -> None:
    """Exit with one sentence if a program, a core or a server is missing, which the target of make installs."""
    if shutil.which("wrk") is None:
        parser.error("wrk, which sends the requests, is not installed: apt-get install wrk")
    if len(os.sched_getaffinity(0)) < cores:
        parser.error(f"this process may use one core only, but {cores} are needed")
    for name, kind in servers.items():
        if not Path(python := python_of(kind.venv, venvs)).exists():
            parser.error(
                f"{kind.title} is not installed, {python} does not exist: run make {target}, name the folder with "
                f"--venvs, or leave {name} out with --servers"
            )
