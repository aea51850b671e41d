"""A closed loop of calls: as many in flight as wanted, and a new one as soon as one ends.

One in flight is ``predict``, as a program calls it that needs each result before the next call; more are ``submit``.
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
    """What makes the calls: :class:`ParallelPredictUtils`, or a test's own."""

    def predict(self, inputs: Mapping[str, Any]) -> Any:
        """Return the result."""

    def submit(self, inputs: Mapping[str, Any]) -> Future[Any]:
        """Return the result's future."""


class Samples:
    """When calls began and ended (``time.perf_counter_ns``), in the order of their ends.

    Attributes:
        started_ns: when measuring began: with the end of the last call before; 0 where it did not.
    """

    def __init__(self) -> None:
        self.started_ns = 0
        self.ends_ns = array("q")
        self.latencies_ns = array("q")

    def add(self, began_ns: int, ended_ns: int) -> None:
        """Take a call."""
        self.ends_ns.append(ended_ns)
        self.latencies_ns.append(ended_ns - began_ns)

    def __len__(self) -> int:
        return len(self.ends_ns)


class LoadGenerator:
    """Keeps so many calls in flight, from one run to the next too."""

    def __init__(self, runner: Runner, inputs: Mapping[str, Any], in_flight: int) -> None:
        self._runner = runner
        self._inputs = inputs
        self._in_flight = in_flight
        self._pending = 0
        self._ended: SimpleQueue[tuple[int, int, Future[Any]]] = SimpleQueue()

    def warm_up(self, calls: int) -> int:
        """Make calls that are not measured; return when the last ended (at once where there are none)."""
        ended_ns = time.perf_counter_ns()
        for _ in range(calls):
            _, ended_ns = self._next()
        return ended_ns

    def run(self, samples: Samples, started_ns: int, is_enough: Callable[[Samples], bool]) -> None:
        """Measure calls until there are enough; those that an interrupt leaves are in ``samples``, too.

        Raises what the calls raise.
        """
        samples.started_ns = started_ns
        while not is_enough(samples):
            samples.add(*self._next())

    def drain(self) -> None:
        """Wait for the calls that are still in flight."""
        while self._pending:
            self._await()

    def _next(self) -> tuple[int, int]:
        """Return when the next call that ends began, and when it ended."""
        if self._in_flight == 1:
            began_ns = time.perf_counter_ns()
            self._runner.predict(self._inputs)
            return began_ns, time.perf_counter_ns()
        while self._pending < self._in_flight:
            self._submit()
        return self._await()

    def _submit(self) -> None:
        began_ns = time.perf_counter_ns()
        future = self._runner.submit(self._inputs)
        self._pending += 1
        future.add_done_callback(lambda done: self._ended.put((began_ns, time.perf_counter_ns(), done)))

    def _await(self) -> tuple[int, int]:
        began_ns, ended_ns, future = get_next(self._ended)
        self._pending -= 1
        future.result()
        return began_ns, ended_ns
