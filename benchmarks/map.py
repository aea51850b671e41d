"""A folder of files: ``ascend-parallel map`` against the scheme of PaddleX's documents (map_by_queue.py).

    python benchmarks/map.py [--rounds 5] [--paddle-python PYTHON]

Both run as commands, two workers, one file a batch, from the start of the command to its end; the rounds alternate. With
a Python that has PaddleX and PaddleOCR (``make paddle`` makes one; PADDLE_PYTHON names it, too), the real
doc_preprocessor pipeline runs as well, on random weights.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
#: One thread a worker, for both: the documents' scripts leave that to the user, and lose where it is forgotten.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PADDLE_PDX_CPU_NUM_THREADS"), "1")
WORKERS = 2
#: How ``ascend-parallel map`` is told what becomes of results; values are handed to a Python program.
KEEP = {"files": [], "lines": ["--output-format", "jsonl"]}
HAND_BACK = (
    "import sys; from ascend_parallel import parallel_map; "
    "found = [o.results for o in parallel_map(sys.argv[1], sys.argv[2], devices='cpu:0,1')]; print(len(found), 'files')"
)


class Case(NamedTuple):
    """Some files through a pipeline.

    Attributes:
        title: what the table calls it.
        pipeline: as both commands name it.
        folder: of the inputs.
        count: how many there are.
        keep: what becomes of results: "files", "lines" or "values".
        goal: the least ratio of the times, theirs to ours.
        python: where the pipeline's library is.
    """

    title: str
    pipeline: str
    folder: Path
    count: int
    keep: str
    goal: float
    python: str = sys.executable


def ours(case: Case, output: Path) -> list[str]:
    """Return our command."""
    if case.keep == "values":
        return [sys.executable, "-c", HAND_BACK, case.pipeline, str(case.folder)]
    words = ["--input-dir", str(case.folder), "--output-dir", str(output), "--devices", "cpu:0,1", *KEEP[case.keep]]
    return [sys.executable, "-m", "ascend_parallel", "map", case.pipeline, *words, "--worker-python", case.python]


def theirs(case: Case, output: Path) -> list[str]:
    """Return the command of the documents' scheme."""
    words = ["--input_dir", str(case.folder), "--output_dir", str(output), "--instances", str(WORKERS)]
    return [case.python, str(HERE / "map_by_queue.py"), case.pipeline, *words, "--keep", case.keep]


def seconds_of(command: Sequence[str], case: Case, output: Path) -> float:
    """Run a command in a fresh folder and return how long it took; its results are counted."""
    shutil.rmtree(output, ignore_errors=True)
    started_s = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **THREADS}, timeout=300)
    seconds = time.perf_counter() - started_s
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with exit code {done.returncode}:\n{done.stderr}")
    found = {
        "values": lambda: int(done.stdout.split()[-2]),
        "lines": lambda: len((output / "results.jsonl").read_bytes().splitlines()),
        "files": lambda: len(list(output.glob("*.json"))),
    }[case.keep]()
    if found != case.count:
        sys.exit(f"{' '.join(command)}\nmade {found} results of {case.count} files:\n{done.stderr}")
    return seconds


def make_files(folder: Path, count: int) -> Path:
    """Fill a folder with empty files and return it."""
    folder.mkdir()
    for number in range(count):
        (folder / f"f{number:05d}.jpg").touch()
    return folder


def list_cases(root: Path, paddle_python: str | None) -> list[Case]:
    """Return what is measured; the files are made under ``root``."""
    trivial, compute = (f"{HERE / 'map_pipelines.py'}:{name}" for name in ("trivial", "compute"))
    few, some, many = (make_files(root / str(count), count) for count in (WORKERS, 400, 10_000))
    cases = [
        Case("start-up: 2 files", trivial, few, 2, "files", 1.0),
        Case("10,000 trivial files, results handed back", trivial, many, 10_000, "values", 5.0),
        Case("10,000 trivial files, one JSON-lines file", trivial, many, 10_000, "lines", 5.0),
        Case("10,000 trivial files, a file each", trivial, many, 10_000, "files", 1.0),
        Case("400 files of 5 ms of compute", compute, some, 400, "files", 1.0),
    ]
    if paddle_python is None:
        return cases
    sys.path.insert(0, str(HERE.parent / "tests" / "mapping"))
    import paddle_models

    pipeline = f"paddlex:{paddle_models.write_pipeline(root / 'models', threads=1)}"
    for title, count in (("doc_preprocessor, start-up: 2 pictures", WORKERS), ("doc_preprocessor, 200 pictures", 200)):
        folder = root / f"pictures{count}"
        paddle_models.write_pictures(folder, count)
        cases.append(Case(title, pipeline, folder, count, "files", 1.0, paddle_python))
    return cases


def measure(case: Case, rounds: int, output: Path) -> tuple[list[float], list[float]]:
    """Return the seconds of each round: ours and theirs."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):  # who goes first alternates, too
            times[side].append(seconds_of((ours, theirs)[side](case, output), case, output))
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--paddle-python", default=os.environ.get("PADDLE_PYTHON") or None)
    arguments = parser.parse_args()
    table = Table(title=f"{WORKERS} workers on {os.cpu_count()} cores, {arguments.rounds} rounds, medians")
    for title in ("what", "theirs, s", "ours, s", "times faster", "range", "goal"):
        table.add_column(title, justify="left" if title == "what" else "right")
    with tempfile.TemporaryDirectory(prefix="ascend-parallel-map-") as text:
        root = Path(text)
        for case in list_cases(root, arguments.paddle_python):
            mine, other = measure(case, arguments.rounds, root / "out")
            ratios = sorted(their / our for our, their in zip(mine, other, strict=True))
            table.add_row(
                case.title,
                *(f"{statistics.median(times):.2f}" for times in (other, mine)),
                f"{statistics.median(ratios):.2f}",
                f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
                f"{case.goal:g}",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
