"""The process of a side (which runs host.py), and requests to it."""

from __future__ import annotations

import json
import os
import select
import subprocess
from pathlib import Path
from typing import Any

from .cpu import read_times, spent_ms

BENCHMARKS = Path(__file__).resolve().parents[1]
#: Limits on the number of calls in one measurement.
MIN_CALLS, MAX_CALLS = 4, 4000
#: The time limit for building the model and for each reply; Ray takes seconds to start.
ANSWER_TIMEOUT_S = 120.0
CLOSE_TIMEOUT_S = 30.0


class SideError(Exception):
    """A side could not be built, computed wrong results, or did not reply."""


class Side:
    """The process of a side (see sides/host.py)."""

    def __init__(self, title: str, side: str, job: Path, python: str) -> None:
        import_paths = [str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(import_paths), "GLOG_v": "4"}
        self._name = title
        self._process = subprocess.Popen(
            [python, "-m", "sides.host", side, str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        try:
            initial = self._receive()
        except SideError:
            self._end()
            raise
        self._calls_per_s = {"latency": 1e3 / initial["latency_ms"], "stream": 1e3 / initial["interval_ms"]}

    def measure(self, question: str, seconds: float) -> tuple[float, float]:
        """Return the ms per call, and the CPU time of all processes per call in ms, measured for about ``seconds``."""
        calls = min(MAX_CALLS, max(MIN_CALLS, round(self._calls_per_s[question] * seconds)))
        before = read_times(self._process.pid)
        print(json.dumps({"ask": question, "calls": calls}), file=self._process.stdin, flush=True)
        time_ms = float(self._receive()["ms"])
        return time_ms, spent_ms(before, read_times(self._process.pid)) / calls

    def close(self) -> None:
        """End the process; raises SideError if it had to be killed."""
        if not self._end():
            raise SideError(f"{self._name} did not end within {CLOSE_TIMEOUT_S:g} s and was killed")

    def _end(self) -> bool:
        """Close stdin, which ends the process; return True if it did not have to be killed."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
            return True
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        finally:
            self._process.stdout.close()

    def _receive(self) -> dict[str, Any]:
        readable, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            self._process.kill()
            what = "ended without a reply" if readable else f"did not reply within {ANSWER_TIMEOUT_S:g} s"
            raise SideError(f"{self._name} {what}; its output is above")
        reply = json.loads(line)
        if "error" in reply:
            raise SideError(f"{self._name}: {reply['error']}")
        return reply
