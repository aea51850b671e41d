"""A folder of files: ``ascend-parallel map`` compared with the scheme of PaddleX's documentation (map_by_queue.py).

    python benchmarks/map.py [--rounds 5] [--files 10000] [--paddle-python PYTHON]

Both run as commands with two workers and one file per batch, and are measured from start to exit. Which of the two runs
first alternates. The start-up time is that of a run with two files. It is measured in the same round and subtracted; if
the work takes less time than the start-up varies, this needs a quiet machine or more --files. With a Python that has
PaddleX and PaddleOCR (``make paddle`` creates one; PADDLE_PYTHON can name it, too), the real doc_preprocessor pipeline
with random weights is measured as well.
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
#: One thread per worker, for both sides: the documentation's scripts leave that to the user, and are slower without.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PADDLE_PDX_CPU_NUM_THREADS"), "1")
#: Compiled files are kept, as they are for users; otherwise each start would compile the whole package.
ENVIRON = {**os.environ, **THREADS, "PYTHONDONTWRITEBYTECODE": ""}
WORKERS = 2
#: How results are kept -> the options of ``ascend-parallel map``; "values" are returned to a Python program.
KEEP = {"files": [], "lines": ["--output-format", "jsonl"]}
HAND_BACK = (
    "import sys; from ascend_parallel import parallel_map; "
    "found = [o.results for o in parallel_map(sys.argv[1], sys.argv[2], devices='cpu:0,1')]; print(len(found), 'files')"
)


class Case(NamedTuple):
    """Some files to run through a pipeline.

    Attributes:
        title: the title in the table.
        pipeline: the pipeline, in the notation of both commands.
        folder: the folder of the files.
        few: a folder with two of them.
        keep: how results are kept: "files", "lines" or "values".
        goal: the minimum ratio of the times without start-up, theirs to ours.
        python: the interpreter that has the pipeline's library.
    """

    title: str
    pipeline: str
    folder: Path
    few: Path
    keep: str
    goal: float
    python: str = sys.executable


class Round(NamedTuple):
    """The seconds of one command: with two files, and with all files."""

    start_s: float
    whole_s: float


def ours(case: Case, folder: Path, output: Path) -> list[str]:
    """Return our command."""
    if case.keep == "values":
        return [sys.executable, "-c", HAND_BACK, case.pipeline, str(folder)]
    words = ["--input-dir", str(folder), "--output-dir", str(output), "--devices", "cpu:0,1", *KEEP[case.keep]]
    return [sys.executable, "-m", "ascend_parallel", "map", case.pipeline, *words, "--worker-python", case.python]


def theirs(case: Case, folder: Path, output: Path) -> list[str]:
    """Return the command of the documentation's scheme."""
    words = ["--input_dir", str(folder), "--output_dir", str(output), "--instances", str(WORKERS)]
    return [case.python, str(HERE / "map_by_queue.py"), case.pipeline, *words, "--keep", case.keep]


def seconds_of(command: Sequence[str], case: Case, folder: Path, output: Path) -> float:
    """Run a command with an empty output folder, check the number of results, and return the duration."""
    shutil.rmtree(output, ignore_errors=True)
    started_s = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRON, timeout=300)
    seconds = time.perf_counter() - started_s
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with exit code {done.returncode}:\n{done.stderr}")
    results = {
        "values": lambda: int(done.stdout.split()[-2]),
        "lines": lambda: len((output / "results.jsonl").read_bytes().splitlines()),
        "files": lambda: len(list(output.glob("*.json"))),
    }[case.keep]()
    count = len(list(folder.iterdir()))
    if results != count:
        sys.exit(f"{' '.join(command)}\nmade {results} results of {count} files:\n{done.stderr}")
    return seconds


def measure(case: Case, rounds: int, output: Path) -> tuple[list[Round], list[Round]]:
    """Return the seconds of each round, of ours and of theirs."""
    rounds_of_side: tuple[list[Round], list[Round]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            times = [
                seconds_of((ours, theirs)[side](case, folder, output), case, folder, output)
                for folder in (case.few, case.folder)
            ]
            rounds_of_side[side].append(Round(*times))
    return rounds_of_side


def ratio(theirs_s: Sequence[float], ours_s: Sequence[float]) -> str:
    """Return how many times faster ours is: the ratio of the medians, and the range over the rounds."""
    pairs = [*zip(theirs_s, ours_s, strict=True), (statistics.median(theirs_s), statistics.median(ours_s))]
    if min(min(pair) for pair in pairs) <= 0:
        return "lost in\nthe noise"  # the run with two files took longer than the run with all
    *each, middle = [their / our for their, our in pairs]
    return f"{middle:.2f}\n({min(each):.2f} to {max(each):.2f})"


def describe(case: Case, our_rounds: Sequence[Round], their_rounds: Sequence[Round]) -> list[str]:
    """Return a row of the table."""
    start, whole = (
        [[getattr(one, name) for one in rounds] for rounds in (their_rounds, our_rounds)] for name in Round._fields
    )
    beyond = [[one.whole_s - one.start_s for one in rounds] for rounds in (their_rounds, our_rounds)]
    seconds = ["\n".join(f"{statistics.median(times):.2f}" for times in pair) for pair in (start, whole)]
    return [case.title, "theirs\nours", *seconds, *(ratio(*pair) for pair in (start, whole, beyond)), f"{case.goal:g}"]


# ---- the cases


def make_files(folder: Path, count: int) -> Path:
    """Create a folder with empty files and return it."""
    folder.mkdir()
    for number in range(count):
        (folder / f"f{number:05d}.jpg").touch()
    return folder


def list_cases(root: Path, count: int, paddle_python: str | None) -> list[Case]:
    """Return the cases; their files are created in ``root``."""
    trivial, compute = (f"{HERE / 'map_pipelines.py'}:{name}" for name in ("trivial", "compute"))
    few, some, many = (make_files(root / str(files), files) for files in (WORKERS, 400, count))
    cases = [
        Case(f"{count:,} trivial files, results returned", trivial, many, few, "values", 5.0),
        Case(f"{count:,} trivial files, one JSON Lines file", trivial, many, few, "lines", 5.0),
        Case(f"{count:,} trivial files, one JSON file each", trivial, many, few, "files", 1.0),
        Case("400 files of 5 ms of compute", compute, some, few, "files", 1.0),
    ]
    if paddle_python is not None:
        cases.append(_paddle_case(root, paddle_python))
    return cases


def _paddle_case(root: Path, python: str) -> Case:
    sys.path.insert(0, str(HERE.parent / "tests" / "mapping"))
    import paddle_models

    few, many = root / "two pictures", root / "pictures"
    paddle_models.write_pictures(few, WORKERS)
    paddle_models.write_pictures(many, 200)
    pipeline = f"paddlex:{paddle_models.write_pipeline(root / 'models', threads=1)}"
    return Case("doc_preprocessor, 200 pictures", pipeline, many, few, "files", 1.0, python)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default: 5)")
    parser.add_argument("--files", type=int, default=10_000, help="number of trivial files (default: 10000)")
    parser.add_argument(
        "--paddle-python",
        default=os.environ.get("PADDLE_PYTHON"),
        help="a Python that has PaddleX and PaddleOCR (default: $PADDLE_PYTHON)",
    )
    arguments = parser.parse_args()
    table = Table(
        title=f"{WORKERS} workers on {os.cpu_count()} cores; medians of {arguments.rounds} rounds; times faster",
        show_lines=True,
    )
    for title in ("case", "", "start-up, s", "total, s", "start-up", "total", "without start-up", "goal"):
        table.add_column(title, justify="left" if title in ("case", "") else "right")
    with tempfile.TemporaryDirectory(prefix="ascend-parallel-map-") as text:
        for case in list_cases(Path(text), arguments.files, arguments.paddle_python or None):
            table.add_row(*describe(case, *measure(case, arguments.rounds, Path(text) / "out")))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
