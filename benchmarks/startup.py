"""How long the command line takes to start, beside a bare Python and a bare script.

    python benchmarks/startup.py [--rounds 20]

The commands run in turn; the figure of each is the shortest of all rounds, which other processes disturb least. The
trivial map runs three files through a function that returns a dict. The bare script imports numpy and does the same.
Bytecode is compiled before, as pip does when it installs a package.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

FILES = 3
PIPELINE = """\
def make(device):
    return lambda paths: [{"characters": len(path)} for path in paths]
"""
BARE = """\
import json, pathlib, sys
import numpy
sys.path.insert(0, ".")
import pipeline
out = pathlib.Path("bare")
out.mkdir(exist_ok=True)
run = pipeline.make("cpu:0")
for path in pathlib.Path("in").iterdir():
    (out / path.name).write_text(json.dumps(run([str(path)])))
"""


def commands() -> dict[str, list[str]]:
    """Return what is measured, by name."""
    us = [sys.executable, "-m", "ascend_parallel"]
    usual = ["map", "pipeline.py:make", "--input-dir", "in", "--output-dir", "out", "--quiet"]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import numpy": [sys.executable, "-c", "import numpy"],
        "bare script": [sys.executable, "bare.py"],
        "--version": [*us, "--version"],
        "--help": [*us, "--help"],
        "map --help": [*us, "map", "--help"],
        "map, one worker": [*us, *usual, "--devices", "cpu:0"],
        "map, two workers": [*us, *usual, "--devices", "cpu:0,1"],
    }


def measure(rounds: int, folder: Path) -> dict[str, float]:
    """Return the shortest time of each command, in seconds."""
    (folder / "in").mkdir()
    for number in range(FILES):
        (folder / "in" / f"{number}.txt").touch()
    (folder / "pipeline.py").write_text(PIPELINE)
    (folder / "bare.py").write_text(BARE)
    best = dict.fromkeys(commands(), float("inf"))
    for _ in range(rounds + 1):  # the first one compiles
        for name, words in commands().items():
            best[name] = min(best[name], _seconds(words, folder))
    return best


def _seconds(words: Sequence[str], folder: Path) -> float:
    shutil.rmtree(folder / "out", ignore_errors=True)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environ.setdefault("PYTHONPYCACHEPREFIX", str(folder / "bytecode"))
    places = [str(Path(__file__).resolve().parents[1]), environ.get("PYTHONPATH", "")]
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    begin_s = time.perf_counter()
    subprocess.run(words, cwd=folder, env=environ, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin_s


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        best = measure(rounds, Path(folder))
    table = Table("", "seconds", "times a bare Python")
    for name, seconds in best.items():
        table.add_row(name, f"{seconds:.3f}", f"{seconds / best['python -c pass']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
