"""A session of tests leaves nothing in the system's temporary folder, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

PASSES = """
import models
def test_it(tmp_path):
    (tmp_path / "file").touch()
    assert models.linear().exists()
"""

LEAVES_A_FOLDER = """
import tempfile
def test_it():
    tempfile.mkdtemp(prefix="forgotten-")
"""

WAITS = """
import sys
import models
def test_it():
    print(models.linear(), flush=True)
    sys.stdin.readline()
    assert models.linear().exists()
"""


@pytest.fixture
def start(tmp_path):
    """Return what starts a session of one file of tests."""
    started = []

    def start(text, temporary):
        temporary.mkdir(exist_ok=True)
        file = tmp_path / f"test_{len(started)}.py"
        file.write_text(text)
        started.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-c",
                    TESTS.parent / "pyproject.toml",
                    "-p",
                    "conftest",
                    "-p",
                    "no:cacheprovider",
                    "-qs",
                    file,
                ],
                cwd=tmp_path,
                env={**without_session(), "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "TMPDIR": str(temporary)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for session in started:
        with session:
            session.kill()


def without_session():
    return {name: value for name, value in os.environ.items() if name != "PYTEST_DEBUG_TEMPROOT"}


def files_in(folder):
    return [path.name for path in folder.rglob("*") if not path.is_dir()]


def folders_in(folder):
    """Return the names of folders, without the one in which pytest keeps the folders of failed tests."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("pytest-of-"))


def test_nothing_is_left(start, tmp_path):
    session = start(PASSES, tmp_path / "tmp")
    output, _ = session.communicate(timeout=60)
    assert session.returncode == 0, output
    assert files_in(tmp_path / "tmp") == folders_in(tmp_path / "tmp") == []


def test_what_a_test_leaves_fails_the_session(start, tmp_path):
    session = start(LEAVES_A_FOLDER, tmp_path / "tmp")
    output, _ = session.communicate(timeout=60)
    assert session.returncode == 1
    assert "left in the temporary folder" in output and "\nforgotten-" in output
    assert "1 passed" in output
    assert folders_in(tmp_path / "tmp") == []


def test_nothing_is_left_after_ctrl_c(start, tmp_path):
    session = start(WAITS, tmp_path / "tmp")
    assert Path(session.stdout.readline().strip()).exists()
    session.send_signal(signal.SIGINT)
    output, _ = session.communicate(timeout=60)
    assert session.returncode == 2, output
    assert files_in(tmp_path / "tmp") == folders_in(tmp_path / "tmp") == []


def test_sessions_do_not_remove_each_other_s_folders(start, tmp_path):
    first = start(WAITS, tmp_path / "tmp")
    assert Path(first.stdout.readline().strip()).exists()
    second = start(PASSES, tmp_path / "tmp")
    second.communicate(timeout=60)
    assert second.returncode == 0
    output, _ = first.communicate("\n", timeout=60)
    assert first.returncode == 0, output
    assert folders_in(tmp_path / "tmp") == []
