"""Fixtures for the tests of the conversion."""

import os
import sys
from pathlib import Path

import pytest

for folder in (Path(__file__).resolve().parent, Path(__file__).resolve().parent.parent):
    sys.path.insert(0, str(folder))  # converting.py; tests/models.py

from converting import FakeConverter  # noqa: E402


@pytest.fixture
def converter_lite(tmp_path, monkeypatch):
    """Put a stand-in for converter_lite on PATH."""
    fake = FakeConverter(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.folder}{os.pathsep}{os.environ['PATH']}")
    return fake


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to an empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def command_in_process(monkeypatch, capsys):
    """Return a function that runs ``ascend-parallel`` in this process: arguments -> (exit code, stdout, stderr)."""

    def run(*words):
        from ascend_parallel import cli

        monkeypatch.setattr(sys, "argv", ["ascend-parallel", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run
