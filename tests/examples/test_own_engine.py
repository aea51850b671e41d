"""examples/own_engine: its README's commands, the page that explains it, and the engine under Python 3.7."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import models
import numpy as np
import pytest

import ascend_parallel
from ascend_parallel import EngineError, ParallelPredictUtils, parallel_map

ROOT = Path(ascend_parallel.__file__).parents[1]
EXAMPLE = ROOT / "examples" / "own_engine"
PAGE = ROOT / "docs" / "engines-outside.md"
W = np.array([[1, 0], [0, 2], [3, 0]], np.float32)
B = np.array([10, 20], np.float32)
X = np.arange(21, dtype=np.float32).reshape(7, 3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the example, as the working directory, with a model."""
    shutil.copytree(EXAMPLE, tmp_path / "own", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path / "own")
    np.savez("model.npz", weights=W, bias=B)
    return tmp_path / "own"


def blocks(page, language):
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def run(text, cwd):
    """Run a shell block, with this Python and this package."""
    bin_folder = cwd / "bin"
    bin_folder.mkdir()
    for name, words in (("python", '"$@"'), ("ascend-parallel", '-m ascend_parallel "$@"')):
        (bin_folder / name).write_text(f"#!/bin/sh\nexec {sys.executable} {words}\n")
        (bin_folder / name).chmod(0o755)
    environ = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(["sh", "-ec", text], cwd=cwd, env=environ, capture_output=True, text=True, timeout=110)


def test_the_readme_s_commands(folder):
    (shell,) = blocks(folder / "README.md", "sh")
    (python,) = blocks(folder / "README.md", "python")
    done = run(f"{shell}\ncat > try.py <<'END'\n{python}\nEND\npython try.py", folder)
    assert done.returncode == 0, done.stderr
    assert "Options of npz_engine:NpzEngine: scale (int or float)" in done.stdout
    assert "(batch, 3)" in done.stdout
    assert "predicted in" in done.stderr and "on cpu:0, cpu:1" in done.stderr
    assert "linear.npz with npz_engine:NpzEngine" in done.stdout
    with np.load(folder / "out.npz") as made:
        np.testing.assert_array_equal(made["logits"], np.ones((5, 3)))
    assert done.stdout.endswith("[[1. 1. 1.]\n" + " [1. 1. 1.]\n" * 3 + " [1. 1. 1.]]\n")


@pytest.mark.parametrize("python", [None, pytest.param("3.7", marks=pytest.mark.mslite)])
def test_the_engine(folder, python):
    options = {"worker_python": models.mslite_python() if python else None, "engine_options": {"scale": 2}}
    with ParallelPredictUtils(
        "model.npz", engine="npz_engine.py:NpzEngine", devices="cpu:0,1", instances=2, **options
    ) as runner:
        for _ in range(3):
            np.testing.assert_allclose(runner.predict({"x": X})["logits"], X @ (2 * W) + B, rtol=1e-6)
    np.savez("broken.npz", weights=W)
    with pytest.raises(EngineError, match="NpzEngine: ValueError: .*broken.npz holds no array bias"):
        ParallelPredictUtils("broken.npz", engine="npz_engine.py:NpzEngine", devices="cpu", **options).build_model()


def test_it_writes_where_results_are_wanted(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    from npz_engine import NpzEngine

    engine = NpzEngine("model.npz", ("cpu", 0), {})
    wanted = np.empty((7, 2), np.float32)
    assert engine.predict(["x"], [X], {"logits": wanted})["logits"] is wanted
    np.testing.assert_array_equal(wanted, X @ W + B)
    for wrong in (np.empty((6, 2), np.float32), np.empty((7, 2), np.float64)):
        made = engine.share().predict(["x"], [X], {"logits": wrong})["logits"]
        assert made is not wrong
        np.testing.assert_array_equal(made, X @ W + B)


def test_map(folder):
    (folder / "rows").mkdir()
    for number in range(3):
        np.save(folder / "rows" / f"{number}.npy", X[number])
    found = list(parallel_map("model.npz", "rows", engine="npz_engine.py:NpzEngine", devices="cpu"))
    np.testing.assert_allclose([outcome.result["logits"] for outcome in found], X[:3] @ W + B)


def test_the_page_shows_this_engine():
    shown = blocks(PAGE, "python")
    assert (EXAMPLE / "npz_engine.py").read_text() in shown


def test_the_page_s_way_to_debug(folder):
    (text,) = [block for block in blocks(PAGE, "python") if "breakpoint" in block]
    done = run(f"python - <<'END'\n{text.replace('breakpoint()', 'pass')}\nEND", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{'logits': array(")
