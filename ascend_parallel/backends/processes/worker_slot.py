"""A worker's seat: the device it is bound to, who sits there now, and how often that one was replaced."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from .worker_process import Worker, WorkerSpec

#: ``max_restarts`` counts those of the last ten minutes: a service must survive one crash a week for years,
#: and must not restart a broken device for ever.
RESTART_WINDOW_S = 600.0
#: The first restart comes at once; the next wait, doubling: a driver needs a moment to free a chip.
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 10.0


class Limits(NamedTuple):
    """The times and numbers that a supervisor keeps; see ``ParallelPredictUtils``.

    Attributes:
        blames_device: whether a worker that dies over a task counts against its device; False where the
            caller takes its tasks for the likelier cause, and counts itself.
    """

    build_timeout_s: float
    predict_timeout_s: float
    max_retries: int
    max_restarts: int
    blames_device: bool = True


class WorkerSlot:
    """One device's place in a runner.

    Attributes:
        post: what runs here.
        worker: who runs it now; None between two.
        restart_at_s: when the next one is to be started (``time.monotonic``); inf if none is.
        is_out: it failed too often and stays empty.
    """

    def __init__(self, post: WorkerSpec) -> None:
        self.post = post
        self.worker: Worker | None = None
        self.restart_at_s = float("inf")
        self.is_out = False
        self._restarts: deque[float] = deque()
        self._total_restarts = 0
        self._tasks = 0
        self._rows = 0
        self._busy_ns = 0

    def plan_restart(self, now_s: float, max_restarts: int) -> bool:
        """Decide when the next worker starts; False where the budget is spent and the seat is out."""
        while self._restarts and self._restarts[0] < now_s - RESTART_WINDOW_S:
            self._restarts.popleft()
        recent = len(self._restarts)
        if recent >= max_restarts:
            self.is_out = True
            return False
        delay_s = min(_FIRST_DELAY_S * 2 ** (recent - 1), _LONGEST_DELAY_S) if recent else 0.0
        self.restart_at_s = now_s + delay_s
        self._restarts.append(self.restart_at_s)
        self._total_restarts += 1
        return True

    def restart_now(self, now_s: float) -> None:
        """Plan a restart that is not the device's fault, and does not count against it."""
        self.restart_at_s = now_s
        self._total_restarts += 1

    def count(self, rows: int, busy_ns: int) -> None:
        """Note one task answered."""
        self._tasks += 1
        self._rows += rows
        self._busy_ns += busy_ns

    def stats(self) -> dict[str, Any]:
        """Return the seat's numbers since the runner was built."""
        worker = self.worker
        state = "out" if self.is_out else "ready" if worker is not None and worker.is_ready else "starting"
        return {
            "state": state,
            "pid": None if worker is None else worker.pid,
            "tasks": self._tasks,
            "rows": self._rows,
            "busy_s": self._busy_ns / 1e9,
            "restarts": self._total_restarts,
        }
