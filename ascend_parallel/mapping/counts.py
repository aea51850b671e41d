"""What a run over files has done so far: counts, rate and time left."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence

from .outcome import Outcome

__all__ = ["RunCounts", "show_rate", "show_time"]

#: The rate that is shown is that of the last seconds, so that a slow start does not spoil it.
_RATE_WINDOW_S = 20.0


class RunCounts:
    """What was counted so far.

    Attributes:
        total: files of the run, with those that an earlier run has done.
        before: those.
        ok: done well, in this run.
        failed: set aside, in this run.
        of_device: device -> files dealt with.
    """

    def __init__(self, total: int, before: int) -> None:
        self.total = total
        self.before = before
        self.ok = 0
        self.failed = 0
        self.of_device: Counter[str] = Counter()
        self.started_s = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque([(self.started_s, 0)])

    @property
    def dealt_with(self) -> int:
        """Files of this run that are done or set aside."""
        return self.ok + self.failed

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_s

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Count some more."""
        good = sum(outcome.ok for outcome in outcomes)
        self.ok += good
        self.failed += len(outcomes) - good
        self.of_device.update([outcome.device for outcome in outcomes])
        self._recent.append((time.monotonic(), self.dealt_with))
        while len(self._recent) > 2 and self._recent[0][0] < self._recent[-1][0] - _RATE_WINDOW_S:
            self._recent.popleft()

    def rate(self) -> float:
        """Return files per second of late."""
        (since_s, before), (now_s, now) = self._recent[0], self._recent[-1]
        return (now - before) / (now_s - since_s) if now_s > since_s else 0.0

    def left_s(self) -> float | None:
        """Return how long the rest will take; None where that cannot be told yet."""
        rate = self.rate()
        return (self.total - self.before - self.dealt_with) / rate if rate else None

    def describe(self) -> str:
        """Return the rate, the failures and the time left in words."""
        left_s = self.left_s()
        words = [f"{show_rate(self.rate())} files/s", f"{self.failed:,} failed"]
        if left_s is not None and self.dealt_with < self.total - self.before:
            words.append(f"{show_time(left_s)} left")
        return ", ".join(words)

    def describe_devices(self) -> str:
        """Return what each device has done in words."""
        return ", ".join(f"{device} {count:,}" for device, count in sorted(self.of_device.items()))


def show_rate(rate: float) -> str:
    """Return a rate with as many digits as mean something."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def show_time(seconds: float) -> str:
    """Return a time as ``42 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
