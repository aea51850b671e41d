"""The progress of a run: counts, rate and remaining time."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence

from .outcome import Outcome

__all__ = ["RunCounts", "show_rate", "show_time"]

#: The rate is that of the last seconds, so that a slow start does not affect it.
_RATE_WINDOW_S = 20.0


class RunCounts:
    """The counts so far.

    Attributes:
        total: the number of files, including those that an earlier run has processed.
        before: the number of files that an earlier run has processed.
        ok: the number of files that succeeded in this run.
        failed: the number of files that failed in this run.
        of_device: device -> number of files processed.
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
        """The number of files that were processed in this run, with or without success."""
        return self.ok + self.failed

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self.started_s

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Count more outcomes."""
        good = sum(outcome.ok for outcome in outcomes)
        self.ok += good
        self.failed += len(outcomes) - good
        self.of_device.update([outcome.device for outcome in outcomes])
        self._recent.append((time.monotonic(), self.dealt_with))
        while len(self._recent) > 2 and self._recent[0][0] < self._recent[-1][0] - _RATE_WINDOW_S:
            self._recent.popleft()

    def rate(self) -> float:
        """Return the files per second over the last seconds."""
        (since_s, before), (now_s, now) = self._recent[0], self._recent[-1]
        return (now - before) / (now_s - since_s) if now_s > since_s else 0.0

    def left_s(self) -> float | None:
        """Return the remaining time; None as long as it is unknown."""
        rate = self.rate()
        return (self.total - self.before - self.dealt_with) / rate if rate else None

    def describe(self) -> str:
        """Return the rate, the failures and the remaining time as text."""
        left_s = self.left_s()
        words = [f"{show_rate(self.rate())} files/s", f"{self.failed:,} failed"]
        if left_s is not None and self.dealt_with < self.total - self.before:
            words.append(f"{show_time(left_s)} left")
        return ", ".join(words)

    def describe_devices(self) -> str:
        """Return the number of files per device as text."""
        return ", ".join(f"{device} {count:,}" for device, count in sorted(self.of_device.items()))


def show_rate(rate: float) -> str:
    """Return a rate as text, with its significant digits."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def show_time(seconds: float) -> str:
    """Return a time as ``42 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
