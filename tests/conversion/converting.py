"""A stand-in for converter_lite, and the command line as a user runs it."""

import subprocess
import sys
from pathlib import Path

TINY = Path(__file__).resolve().parents[2] / "examples" / "sd21" / "tiny"

#: A converter for the tests: notes the words that it was called with, and does what it is told to.
FAKE = """#!/bin/sh
for word; do case $word in --modelFile=*) model=${word#*=};; --outputFile=*) output=${word#*=};; esac; done
printf '%s\\n' "$@" > "@FOLDER@/words"
echo called >> "@FOLDER@/calls"
@COMMANDS@
"""
COPY = 'cp "$model" "$output.mindir"; chmod 400 "$output.mindir"'  # the permissions that MindSpore Lite gives


class FakeConverter:
    """A converter_lite on PATH."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.does(COPY)

    def does(self, commands):
        """Set the shell commands that it runs; the ONNX file is $model, the result without its suffix $output."""
        file = self.folder / "converter_lite"
        file.write_text(FAKE.replace("@FOLDER@", str(self.folder)).replace("@COMMANDS@", commands))
        file.chmod(0o755)

    @property
    def words(self):
        """The words that it was last called with."""
        return (self.folder / "words").read_text().splitlines()

    @property
    def calls(self):
        """How often it was called."""
        calls = self.folder / "calls"
        return len(calls.read_text().split()) if calls.exists() else 0


def command(*words, **options):
    """Run ``ascend-parallel`` with these words, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "ascend_parallel", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=100,
        **options,
    )


def contents(folder):
    """Return the names of all that lies in a folder, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
