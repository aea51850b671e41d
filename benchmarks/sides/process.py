"""A side's process, and what it is asked (see host.py, which it runs)."""

from __future__ import annotations

import json
import os
import select
import subprocess
from pathlib import Path
from typing import Any

from .cpu import read_times, spent_ms

BENCHMARKS = Path(__file__).resolve().parents[1]
#: Bounds on the calls of one measurement, whatever a call takes.
MIN_CALLS, MAX_CALLS = 4, 4000
#: Within it a side must have built its model, or answered; Ray takes seconds to start.
ANSWER_TIMEOUT_S = 120.0
CLOSE_TIMEOUT_S = 30.0


class SideError(Exception):
    """A side could not be built, gave wrong numbers, or did not answer."""


class Side:
    """A side's process (see sides/host.py)."""

    def __init__(self, title: str, side: str, job: Path, python: str) -> None:
        places = [str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "GLOG_v": "4"}
        self._name = title
        self._process = subprocess.Popen(
            [python, "-m", "sides.host", side, str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        try:
            first = self._hear()
        except SideError:
            self._end()
            raise
        self._calls_per_s = {"latency": 1e3 / first["latency_ms"], "stream": 1e3 / first["interval_ms"]}

    def measure(self, question: str, seconds: float) -> tuple[float, float]:
        """Return milliseconds a call, and of CPU time of all processes a call, measured over about so many seconds."""
        calls = min(MAX_CALLS, max(MIN_CALLS, round(self._calls_per_s[question] * seconds)))
        before = read_times(self._process.pid)
        print(json.dumps({"ask": question, "calls": calls}), file=self._process.stdin, flush=True)
        taken_ms = float(self._hear()["ms"])
        return taken_ms, spent_ms(before, read_times(self._process.pid)) / calls

    def close(self) -> None:
        """End the process; raises where it does not end by itself."""
        if not self._end():
            raise SideError(f"{self._name} did not end within {CLOSE_TIMEOUT_S:g} s and was killed")

    def _end(self) -> bool:
        """Let it end by the end of its orders; True if it did not have to be killed."""
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

    def _hear(self) -> dict[str, Any]:
        readable, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            self._process.kill()
            what = "ended without an answer" if readable else f"did not answer within {ANSWER_TIMEOUT_S:g} s"
            raise SideError(f"{self._name} {what}; its own lines are above")
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(f"{self._name}: {answer['error']}")
        return answer
