"""The benchmark of pictures runs, and measures what it says."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "images.py"


def test_it_measures_the_tiny_model():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rounds", "1", "--sides", "tiny"],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "the tiny model on two workers of a CPU" in done.stdout and "at once / ideal" in done.stdout
