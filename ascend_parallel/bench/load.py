"""A closed loop of calls: a fixed number in flight, and a new call as soon as one completes.

One call in flight uses ``predict``, like a program that needs each result before the next call. More use ``submit``.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Protocol

from ascend_parallel.waiting import get_next


class Runner(Protocol):
    """What runs the calls: :class:`ParallelPredictUtils`, or a test's stand-in."""

    def predict(self, inputs: Mapping[str, Any]) -> Any:
        """Return the result."""

    def submit(self, inputs: Mapping[str, Any]) -> Future[Any]:
        """Return the result's future."""


class Samples:
    """When calls started and ended (``time.perf_counter_ns``), in the order of their ends.

    Attributes:
        started_ns: the start of the measurement: the end of the last call before it; 0 if it has not started.
    """

    def __init__(self) -> None:
        self.started_ns = 0
        self.ends_ns = array("q")
        self.latencies_ns = array("q")

    def add(self, call_started_ns: int, call_ended_ns: int) -> None:
        """Add a call."""
        self.ends_ns.append(call_ended_ns)
        self.latencies_ns.append(call_ended_ns - call_started_ns)

    def __len__(self) -> int:
        return len(self.ends_ns)


class LoadGenerator:
    """Keeps a number of calls in flight, also between two runs."""

    def __init__(self, runner: Runner, inputs: Mapping[str, Any], in_flight: int) -> None:
        self._runner = runner
        self._inputs = inputs
        self._in_flight = in_flight
        self._pending = 0
        self._completed: SimpleQueue[tuple[int, int, Future[Any]]] = SimpleQueue()

    def warm_up(self, calls: int) -> int:
        """Run calls that are not measured; return when the last one ended (the current time if there are none)."""
        ended_ns = time.perf_counter_ns()
        for _ in range(calls):
            _, ended_ns = self._next()
        return ended_ns

    def run(self, samples: Samples, started_ns: int, is_enough: Callable[[Samples], bool]) -> None:
        """Measure calls until there are enough; after an interrupt, ``samples`` contains the calls so far.

        Raises the exceptions of the calls.
        """
        samples.started_ns = started_ns
        while not is_enough(samples):
            samples.add(*self._next())

    def drain(self) -> None:
        """Wait for the calls that are still in flight."""
        while self._pending:
            self._wait()

    def _next(self) -> tuple[int, int]:
        """Return when the next call to complete started, and when it ended."""
        if self._in_flight == 1:
            call_started_ns = time.perf_counter_ns()
            self._runner.predict(self._inputs)
            return call_started_ns, time.perf_counter_ns()
        while self._pending < self._in_flight:
            self._submit()
        return self._wait()

    def _submit(self) -> None:
        call_started_ns = time.perf_counter_ns()
        future = self._runner.submit(self._inputs)
        self._pending += 1
        future.add_done_callback(lambda done: self._completed.put((call_started_ns, time.perf_counter_ns(), done)))

    def _wait(self) -> tuple[int, int]:
        call_started_ns, ended_ns, future = get_next(self._completed)
        self._pending -= 1
        future.result()
        return call_started_ns, ended_ns
