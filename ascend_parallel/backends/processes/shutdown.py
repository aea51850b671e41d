"""How workers are ended: asked, then terminated, then killed, each for a bounded time; own processes only."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from .worker_process import Worker

#: How long an idle worker may take to leave after EXIT.
EXIT_GRACE_S = 5.0
#: How long after SIGTERM, which a busy worker gets at once.
TERMINATE_GRACE_S = 2.0
#: How long after SIGKILL. A process that is stuck in a driver survives even that, and is left to the system.
KILL_GRACE_S = 5.0


class Shutdown:
    """The end of all workers of a pool. It never waits itself: its owner calls :meth:`advance` in time.

    Attributes:
        due_s: when :meth:`advance` is to be called next (``time.monotonic``).
        has_given_up: all stages are over, and workers are still there.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        """Ask idle workers to exit; terminate those that build or predict, as nobody wants their replies."""
        for worker in workers:
            if worker.is_ready and not worker.in_flight:
                worker.request_exit()
            else:
                worker.signal(signal.SIGTERM)
        self._stages = [
            (EXIT_GRACE_S, signal.SIGTERM),
            (TERMINATE_GRACE_S, signal.SIGKILL),
            (KILL_GRACE_S, None),
        ]
        if all(worker.in_flight or not worker.is_ready for worker in workers):
            del self._stages[0]
        self.due_s = time.monotonic() + self._stages[0][0]
        self.has_given_up = False

    def advance(self, workers: Sequence[Worker]) -> None:
        """Go on to the next stage with the workers that are still there."""
        _, number = self._stages.pop(0)
        if number is None:
            self.has_given_up = True
            return
        for worker in workers:
            worker.signal(number)
        self.due_s = time.monotonic() + self._stages[0][0]
