"""README's table of what was tested: made from results, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tested_on

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "tested_on.py"


def test_readme_has_the_table_of_the_kept_results():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def copy(tmp_path):
    """Return the script in a copy of what it works on."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "docs").mkdir()
    for name in ("scripts/tested_on.py", "docs/tested-on.json", "README.md"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path / "scripts/tested_on.py"


def run(script, tmp_path, results):
    (tmp_path / "results.json").write_text(json.dumps(results))
    return subprocess.run(
        [sys.executable, script, tmp_path / "results.json"], capture_output=True, text=True, timeout=60
    )


def test_a_run_replaces_its_rows_and_keeps_the_others(copy, tmp_path):
    done = run(copy, tmp_path, {"gpu": {"passed": 1234, "versions": {"onnxruntime-gpu": "9.8.7"}}})
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "README.md").read_text()
    assert "| ONNX Runtime's CUDA and TensorRT providers on a GPU | 9.8.7 | 1,234 passed |" in text
    before = (ROOT / "README.md").read_text().splitlines()
    assert [line for line in text.splitlines() if line not in before] == [
        "| ONNX Runtime's CUDA and TensorRT providers on a GPU | 9.8.7 | 1,234 passed |"
    ]


def test_a_run_with_failures_changes_nothing(copy, tmp_path):
    before = (tmp_path / "README.md").read_text()
    done = run(copy, tmp_path, {"gpu": {"passed": 3, "failed": 2, "versions": {"onnxruntime-gpu": "9.8.7"}}})
    assert done.returncode == 1
    assert "2 tests of ONNX Runtime's CUDA and TensorRT providers on a GPU failed" in done.stderr
    assert (tmp_path / "README.md").read_text() == before


def test_every_row_has_a_title_and_a_test_counts_for_its_marker():
    titles = json.loads(
        subprocess.run(
            [sys.executable, "-c", "import json, tested_on; print(json.dumps(tested_on.TITLES))"],
            **{"cwd": SCRIPT.parent, "capture_output": True, "text": True, "check": True, "timeout": 60},
        ).stdout
    )
    assert titles.keys() == tested_on.ROWS.keys()
    assert tested_on.row_of("tests/engines/test_on_gpu.py::test_x", {"gpu", "timeout"}) == "gpu"
    assert tested_on.row_of("tests/engines/test_onnxruntime.py::test_x[mslite]", set()) == "cpu"
    assert tested_on.row_of("tests/docs/test_pages.py::test_x", set()) is None
