"""Records what a run of the tests has shown about each runtime; ``scripts/tested_on.py`` makes README's table of it.

A test counts for the runtime that its marker names. Without one, tests of engines, the runner and ``map`` count for
ONNX Runtime on CPUs.
"""

import json
import os
import subprocess
import sys
from collections import Counter

#: Row -> the variable that names its Python, and the packages whose versions are told.
ROWS = {
    "cpu": (None, ("onnxruntime",)),
    "mslite": ("MSLITE_PYTHON", ("mindspore-lite",)),
    "paddle": ("PADDLE_PYTHON", ("paddlex", "paddleocr")),
    "openvino": ("OPENVINO_PYTHON", ("onnxruntime-openvino",)),
    "cann": ("CANN_PYTHON", ("onnxruntime-cann",)),
    "torch_npu": ("TORCH_NPU_PATH", ("torch-npu",)),
    "gpu": ("GPU_PYTHON", ("onnxruntime-gpu",)),
}
_CPU_FOLDERS = ("tests/engines/", "tests/runner/", "tests/mapping/")
#: Python 3.7 has no importlib.metadata.
_VERSIONS = "import pkg_resources as p, sys; print(*(p.get_distribution(n).version for n in sys.argv[1:]))"
_VERSIONS_NOW = "import importlib.metadata as m, sys; print(*(m.version(n) for n in sys.argv[1:]))"


class Recorder:
    """A plugin of pytest that counts outcomes by row, and writes them at the end."""

    def __init__(self, path):
        self._path = path
        self._counts = {row: Counter() for row in ROWS}
        self._row_of = {}

    def pytest_collection_modifyitems(self, items):
        self._row_of = {item.nodeid: row_of(item.nodeid, {mark.name for mark in item.iter_markers()}) for item in items}

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.outcome == "passed":
            return
        row = self._row_of.get(report.nodeid)
        if row:
            self._counts[row][report.outcome] += 1

    def pytest_sessionfinish(self):
        rows = {
            row: {**counts, "versions": versions_of(row)} for row, counts in self._counts.items() if counts["passed"]
        }
        self._path.write_text(json.dumps(rows, indent=2) + "\n")


def row_of(nodeid, markers):
    """Return the row for which a test counts; None if it counts for none."""
    for row in ROWS:
        if row in markers:
            return row
    return "cpu" if nodeid.startswith(_CPU_FOLDERS) else None


def versions_of(row):
    """Return package -> version."""
    variable, packages = ROWS[row]
    environ = dict(os.environ)
    python = sys.executable if variable is None else os.environ[variable]
    if os.path.isdir(python):
        environ["PYTHONPATH"], python = python, sys.executable
    for code in (_VERSIONS_NOW, _VERSIONS):
        done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, env=environ, timeout=60)
        if done.returncode == 0:
            return dict(zip(packages, done.stdout.split(), strict=True))
    raise RuntimeError(f"{python} does not tell the versions of {packages}: {done.stderr}")
