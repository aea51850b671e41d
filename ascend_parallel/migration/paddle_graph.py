"""The ops that a file of Paddle Serving builds, found by importing it in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from ascend_parallel.checks import check_file, find_python
from ascend_parallel.errors import UsageError
from ascend_parallel.worker import __main__ as worker_program

_IMPORT_S = 120.0


def read_graph(web_service: str, worker_python: str | None) -> dict[str, Any]:
    """Return what ``worker/ops/paddle_graph.py`` tells of a file.

    Args:
        web_service: the file.
        worker_python: the interpreter that imports it; None: this one.

    Raises:
        UsageError: there is no such file, or it cannot be imported.
    """
    check_file("file of Paddle Serving", web_service)
    path = Path(web_service).absolute()
    command = [find_python(worker_python), str(Path(worker_program.__file__).absolute()), "paddle-graph", path.name]
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=path.parent, env=environ, capture_output=True, text=True, timeout=_IMPORT_S)
    except subprocess.TimeoutExpired:
        raise UsageError(f"{web_service} was not imported in {_IMPORT_S:g} s") from None
    try:
        graph: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        tail = done.stderr.strip()[-500:]
        raise UsageError(
            f"{web_service} cannot be imported: the process ended with exit code {done.returncode}: {tail}"
        ) from None
    if "error" in graph:
        raise UsageError(
            f"{graph['error']}; --worker-python names an interpreter that has what the file imports beside "
            "paddle_serving_server"
        )
    return graph
