"""The engines that there are, and whether their runtimes can be imported; for ``ascend-parallel engines``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ascend_parallel.checks import find_python
from ascend_parallel.runner.options import import_path, load_engine
from ascend_parallel.worker import __main__ as program
from ascend_parallel.worker.engines import PUBLIC_ENGINES, Engine

__all__ = ["EngineInfo", "RuntimeInfo", "list_engines"]

PROBE_TIMEOUT_S = 60.0  # an import takes a second, from a cold network disk many
_READ_S = 0.5  # for the answer of a process that ended while another was waited for
_KILL_S = 1.0  # for a process that was killed
_SHOWN_CHARS = 300  # of the last line of a program that failed


class RuntimeInfo(NamedTuple):
    """What an interpreter says of an engine's runtime.

    Attributes:
        python: the interpreter.
        found: name and version; "" where the engine needs none, or it cannot be imported.
        error: why it cannot be imported; "" where it can.
    """

    python: str
    found: str
    error: str

    @property
    def state(self) -> str:
        """It in a few words: what was found, or that nothing is needed, or is missing."""
        if self.error:
            return "missing" if self.error.startswith(ModuleNotFoundError.__name__) else "fails"
        return self.found or "none needed"


class EngineInfo(NamedTuple):
    """An engine and the state of its runtime.

    Attributes:
        engine: its class.
        here: its runtime in this interpreter.
        worker: its runtime in the workers' interpreter, where one was named.
    """

    engine: type[Engine]
    here: RuntimeInfo
    worker: RuntimeInfo | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        engine = self.engine
        options = engine.options
        return {
            "name": engine.name,
            "suffixes": list(engine.suffixes),
            "device_types": list(engine.device_types),
            "options": None if options is None else {name: _names(types) for name, types in options.items()},
            "instances": "threads" if engine.can_share else "processes",
            "install": engine.install,
            "here": self.here._asdict(),
            "worker": None if self.worker is None else self.worker._asdict(),
        }


def _names(types: Sequence[type]) -> list[str]:
    return [kind.__name__ for kind in types]


def list_engines(
    names: Sequence[str] = (),
    worker_python: str | os.PathLike[str] | None = None,
    timeout_s: float = PROBE_TIMEOUT_S,
) -> list[EngineInfo]:
    """Return engines, with what their runtimes are: each is imported in a process of its own, all at the same time.

    Args:
        names: "onnxruntime", ``"package.module:EngineClass"``, ...; empty: those that come with this package.
        worker_python: the interpreter of workers, where it is another than this one.
        timeout_s: what takes longer is ended, and cannot be imported.

    Raises:
        UsageError: there is no such engine, it cannot be loaded here, or ``worker_python`` is no executable.
    """
    engines = [load_engine(name) for name in names or PUBLIC_ENGINES]
    pythons = [sys.executable] + ([find_python(worker_python)] if worker_python is not None else [])
    with contextlib.ExitStack() as stack:
        probes = [[stack.enter_context(_Probe(python, e.name)) for python in pythons] for e in engines]
        end_s = time.monotonic() + timeout_s
        found = [[probe.finish(end_s) for probe in row] for row in probes]
    return [EngineInfo(e, *row) for e, row in zip(engines, found, strict=True)]


class _Probe:
    """A process that imports an engine's runtime; it ends with the ``with`` statement, and all that it started."""

    def __init__(self, python: str, engine: str) -> None:
        self._python = python
        command = [python, str(Path(program.__file__).resolve()), "probe", engine, *import_path()]
        self._started_s = time.monotonic()
        self._error = ""
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # a group of its own, to be ended as a whole
            )
        except OSError as error:
            self._error = f"{python} cannot be run: {error.strerror or error}"

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._error and self._process.returncode is None:  # Ctrl-C, or too slow
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            assert self._process.stdout is not None
            self._process.stdout.close()
            try:
                self._process.wait(_KILL_S)
            except subprocess.TimeoutExpired:
                self._process.returncode = -signal.SIGKILL  # stuck in a driver: nobody can end it

    def finish(self, end_s: float) -> RuntimeInfo:
        """Wait for the answer until then."""
        if self._error:
            return RuntimeInfo(self._python, "", self._error)
        try:
            text, _ = self._process.communicate(timeout=max(_READ_S, end_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            return RuntimeInfo(self._python, "", f"its import did not end in {end_s - self._started_s:.0f} s")
        last = text.rstrip().rpartition("\n")[2]
        try:
            answer = json.loads(last)
            return RuntimeInfo(self._python, answer["runtime"], answer["error"])
        except (ValueError, TypeError, KeyError):
            return RuntimeInfo(self._python, "", self._why_ended(last))

    def _why_ended(self, last: str) -> str:
        code = self._process.returncode
        ended = f"its import ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
        return f"{ended}: {last[:_SHOWN_CHARS]}" if last else ended
