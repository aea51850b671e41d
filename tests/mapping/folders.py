"""Folders of files, and the command that maps them."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from faults import procs

PIPELINES = str(Path(__file__).with_name("pipelines.py"))


def of(name):
    """Return how a pipeline of pipelines.py is named."""
    return f"{PIPELINES}:{name}"


def fill(folder, names):
    """Make empty files, and the folders for them; return the folder."""
    for name in names:
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def command(*words, cwd, stdin=None, python_path="", **environ):
    """Run ``ascend-parallel map`` as a user does."""
    return subprocess.run(
        line(*words), cwd=cwd, input=stdin, capture_output=True, timeout=110, env=environment(environ, python_path)
    )


def line(*words):
    """Return the command line."""
    return [sys.executable, "-m", "ascend_parallel", "map", *map(str, words)]


def environment(environ, python_path=""):
    """Return an environment with some variables set, or removed where they are None, and a place for modules."""
    places = [python_path, os.environ.get("PYTHONPATH", "")]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), **environ}
    return {name: value for name, value in found.items() if value is not None}


def said(done):
    """Return what a command wrote to stderr."""
    return done.stderr.decode(errors="replace")


def manifest(folder):
    """Return the entries of a manifest, by file; each file is there once."""
    entries = [json.loads(text) for text in (Path(folder) / "manifest.jsonl").read_text().splitlines()]
    found = {entry["file"]: entry for entry in entries}
    assert len(found) == len(entries), "a file is there twice"
    return found


def outputs(folder):
    """Return the names of all outputs below a folder."""
    return sorted(
        str(path.relative_to(folder))
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name not in ("manifest.jsonl", "settings.yaml", "results.jsonl")
    )


@contextlib.contextmanager
def running(*words, cwd, **environ):
    """Start the command; it is killed at the end where it still runs, and its workers are gone then."""
    process = subprocess.Popen(line(*words), cwd=cwd, stderr=subprocess.PIPE, env=environment(environ))
    try:
        yield process
    finally:
        watch = procs.Watch(procs.children(process.pid))
        process.kill()
        process.wait()
        process.stderr.close()
        watch.wait_gone(10)


def wait_for_lines(path, count):
    """Wait until a file has so many lines."""
    path = Path(path)
    procs.wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, f"{count} lines in {path}", 30)
