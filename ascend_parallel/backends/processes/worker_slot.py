"""A slot of the worker pool: what runs there, the worker that occupies it now, and how often it was replaced."""

from __future__ import annotations

from collections import deque
from typing import Any

from ascend_parallel.backends.worker_spec import RESTART_WINDOW_S, WorkerSpec

from .worker_process import Worker

#: The first restart comes at once; the next wait a moment, in which a driver frees its chip. The wait doubles with each
#: worker that ended before it computed anything: a worker that has computed shows that the device works.
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 10.0


class WorkerSlot:
    """One place of a pool.

    Attributes:
        spec: what runs here.
        worker: the process that runs it now; None between two.
        restart_at_s: when the next one is started (``time.monotonic``); inf if none is.
        is_out: its workers failed too often, and it stays empty.
        tasks: how many were answered.
        rows: how many rows these had.
        busy_ns: how long the engine computed them.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.worker: Worker | None = None
        self.restart_at_s = float("inf")
        self.is_out = False
        self.tasks = 0
        self.rows = 0
        self.busy_ns = 0
        self._restarts: deque[float] = deque()
        self._total_restarts = 0
        self._useless_workers = 0

    def plan_restart(self, now_s: float, max_restarts: int, *, has_computed: bool) -> bool:
        """Decide when the next worker starts; return False where the budget is spent and the slot is out.

        Args:
            now_s: ``time.monotonic``.
            max_restarts: the budget.
            has_computed: whether the worker that ended had computed a task.
        """
        while self._restarts and self._restarts[0] < now_s - RESTART_WINDOW_S:
            self._restarts.popleft()
        recent = len(self._restarts)
        if recent >= max_restarts:
            self.is_out = True
            return False
        self._useless_workers = 0 if has_computed else self._useless_workers + 1
        delay_s = min(_FIRST_DELAY_S * 2 ** min(recent - 1, self._useless_workers), _LONGEST_DELAY_S) if recent else 0.0
        self.restart_at_s = now_s + delay_s
        self._restarts.append(self.restart_at_s)
        self._total_restarts += 1
        return True

    def restart_now(self, now_s: float) -> None:
        """Plan a restart that is not the device's fault, and does not count against it."""
        self.restart_at_s = now_s
        self._total_restarts += 1

    def stats(self) -> dict[str, Any]:
        """Return the slot's figures since the runner was built."""
        worker = self.worker
        state = "out" if self.is_out else "ready" if worker is not None and worker.is_ready else "starting"
        return {
            "state": state,
            "pid": None if worker is None else worker.pid,
            "tasks": self.tasks,
            "rows": self.rows,
            "busy_s": self.busy_ns / 1e9,
            "restarts": self._total_restarts,
        }
