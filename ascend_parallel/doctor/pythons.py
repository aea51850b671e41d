"""Python and numpy, of this process and of the workers."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator

from ascend_parallel import __version__

from .bounded import run_bounded
from .context import Context
from .finding import Finding, failure, ok
from .host import compare_versions

TITLE = "Python"
MIN_MASTER, MIN_WORKER, MIN_NUMPY = "3.10", "3.7", "1.21"

#: What an interpreter says of itself; numpy's import may crash it, so that its own version is printed before.
PROGRAM = """
import json, platform
print(json.dumps({"python": platform.python_version()}), flush=True)
import numpy
print(json.dumps({"numpy": numpy.__version__, "add": float(numpy.ones(2).sum())}), flush=True)
"""


def check(context: Context) -> Iterator[Finding]:
    """Yield the findings of this layer."""
    yield ok("ascend_parallel", __version__)
    yield from check_interpreter("Python here", sys.executable, MIN_MASTER, context.look_timeout_s)
    if context.python != sys.executable:
        yield from check_interpreter("workers' Python", context.python, MIN_WORKER, context.look_timeout_s)


def check_interpreter(what: str, python: str, at_least: str, timeout_s: float) -> Iterator[Finding]:
    """Ask an interpreter for its version and numpy's."""
    done = run_bounded([python, "-c", PROGRAM], timeout_s)
    facts: dict[str, str] = {}
    for line in done.output.splitlines():
        try:
            facts.update(json.loads(line))
        except (ValueError, TypeError):
            continue
    version = facts.get("python", "")
    if not version:
        yield failure(what, f"{python} {done.ended}", f"name a Python {at_least} or newer with --worker-python")
        return
    if compare_versions(version, at_least) < 0:
        yield failure(what, f"{version} in {python}", f"use Python {at_least} or newer")
    else:
        yield ok(what, f"{version}, {platform.machine()}, {python}", version=version)
    yield _check_numpy(what, python, facts.get("numpy", ""), done.last_line, done.ended)


def _check_numpy(what: str, python: str, version: str, last_line: str, ended: str) -> Finding:
    check_name = "numpy here" if what == "Python here" else "workers' numpy"
    install = f"run {python} -m pip install 'numpy>={MIN_NUMPY}'"
    if not version:
        return failure(check_name, f"it cannot be imported: {last_line or ended}", install)
    if compare_versions(version, MIN_NUMPY) < 0:
        return failure(check_name, f"{version}; expected {MIN_NUMPY} or newer", install)
    return ok(check_name, version, version=version)
