"""Folders of files, and the ``map`` command."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from faults import procs

PIPELINES = str(Path(__file__).with_name("pipelines.py"))


def pipeline(name):
    """Return the specification of a pipeline in pipelines.py."""
    return f"{PIPELINES}:{name}"


def fill(folder, names):
    """Create empty files and their folders; return the folder."""
    for name in names:
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def command(*words, cwd, stdin=None, python_path="", **environ):
    """Run ``ascend-parallel map`` as a user does."""
    return subprocess.run(
        command_line(*words),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=110,
        env=environment(environ, python_path),
    )


def command_line(*words):
    """Return the command as a list of arguments."""
    return [sys.executable, "-m", "ascend_parallel", "map", *map(str, words)]


def environment(environ, python_path=""):
    """Return the environment with some variables set (or removed if None), and ``python_path`` first in PYTHONPATH."""
    places = [python_path, os.environ.get("PYTHONPATH", "")]
    values = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), **environ}
    return {name: value for name, value in values.items() if value is not None}


def stderr_of(done):
    """Return what a command wrote to stderr."""
    return done.stderr.decode(errors="replace")


def manifest(folder):
    """Return the entries of a manifest, by file; each file has one entry."""
    entries = [json.loads(text) for text in (Path(folder) / "manifest.jsonl").read_text().splitlines()]
    by_file = {entry["file"]: entry for entry in entries}
    assert len(by_file) == len(entries), "a file has two entries"
    return by_file


def outputs(folder):
    """Return the names of all output files below a folder."""
    return sorted(
        str(path.relative_to(folder))
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name not in ("manifest.jsonl", "settings.yaml", "results.jsonl")
    )


@contextlib.contextmanager
def running(*words, cwd, **environ):
    """Start the command; at the end, kill it if it still runs, and wait until its workers are gone."""
    process = subprocess.Popen(command_line(*words), cwd=cwd, stderr=subprocess.PIPE, env=environment(environ))
    try:
        yield process
    finally:
        watch = procs.Watch(procs.children(process.pid))
        process.kill()
        process.wait()
        process.stderr.close()
        watch.wait_gone(10)


def wait_for_lines(path, count):
    """Wait until a file has this many lines."""
    path = Path(path)
    procs.wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, f"{count} lines in {path}", 30)
