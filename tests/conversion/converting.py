"""A stand-in for converter_lite and atc, and the command line as a user runs it."""

import subprocess
import sys
from pathlib import Path

TINY = Path(__file__).resolve().parents[2] / "examples" / "sd21" / "tiny"

#: A converter for the tests: it records its arguments, and then runs the test's commands.
FAKE = """#!/bin/sh
for word; do case $word in
  --modelFile=*|--model=*) model=${word#*=};;
  --outputFile=*|--output=*) output=${word#*=};;
esac; done
printf '%s\\n' "$@" > "@FOLDER@/words"
echo called >> "@FOLDER@/calls"
@COMMANDS@
"""
COPY = 'cp "$model" "$output.mindir"; chmod 400 "$output.mindir"'  # MindSpore Lite sets these permissions


class FakeConverter:
    """A stand-in for a converter on PATH."""

    def __init__(self, folder, name="converter_lite", commands=COPY):
        self.folder = folder
        self._name = name
        folder.mkdir(exist_ok=True)
        self.set_commands(commands)

    def set_commands(self, commands):
        """Set the shell commands that it runs; $model is the ONNX file, $output the result without its suffix."""
        file = self.folder / self._name
        file.write_text(FAKE.replace("@FOLDER@", str(self.folder)).replace("@COMMANDS@", commands))
        file.chmod(0o755)

    @property
    def words(self):
        """The arguments of the last call."""
        return (self.folder / "words").read_text().splitlines()

    @property
    def calls(self):
        """The number of calls."""
        calls = self.folder / "calls"
        return len(calls.read_text().split()) if calls.exists() else 0


def command(*words, **options):
    """Run ``ascend-parallel`` with these arguments, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "ascend_parallel", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=100,
        **options,
    )


def contents(folder):
    """Return the names of all files in a folder, including hidden files."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
