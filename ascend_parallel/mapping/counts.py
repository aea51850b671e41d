"""What a run over files has done so far: counts, rates, and the clock of all that tells of times."""

from __future__ import annotations

import math
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
    def duration_s(self) -> float:
        """Seconds from the start to the latest of the files that were dealt with; 0.0 before the first."""
        return self._recent[-1][0] - self.started_s

    @property
    def files_per_s(self) -> float:
        """Files of this run a second, over its whole duration; 0.0 before the first."""
        return self.dealt_with / self.duration_s if self.duration_s else 0.0

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Count more outcomes."""
        good = sum(outcome.ok for outcome in outcomes)
        self.ok += good
        self.failed += len(outcomes) - good
        self.of_device.update([outcome.device for outcome in outcomes])
        self._recent.append((time.monotonic(), self.dealt_with))
        while len(self._recent) > 2 and self._recent[0][0] < self._recent[-1][0] - _RATE_WINDOW_S:
            self._recent.popleft()

    def recent_files_per_s(self) -> float:
        """Return files per second of late."""
        (since_s, before), (now_s, now) = self._recent[0], self._recent[-1]
        return (now - before) / (now_s - since_s) if now_s > since_s else 0.0

    def left_s(self) -> float | None:
        """Return how long the rest will take; None if that is not known yet."""
        rate = self.recent_files_per_s()
        return (self.total - self.before - self.dealt_with) / rate if rate else None

    def describe(self) -> str:
        """Return the rate, the failures and the time left in words: the rate of late, at the end that of the run."""
        is_done = self.dealt_with == self.total - self.before
        rate = self.files_per_s if is_done else self.recent_files_per_s()
        words = [f"{show_rate(rate)} files/s", f"{self.failed:,} failed"]
        left_s = self.left_s()
        if left_s is not None and not is_done:
            words.append(f"{show_time(math.ceil(left_s))} left")
        return ", ".join(words)

    def describe_run(self) -> str:
        """Return what this run did in words: ``300 files in 2.8 s (109 files/s)``."""
        return f"{self.dealt_with:,} files in {show_time(self.duration_s)} ({show_rate(self.files_per_s)} files/s)"

    def describe_devices(self) -> str:
        """Return the number of files per device as text."""
        return ", ".join(f"{device} {count:,}" for device, count in sorted(self.of_device.items()))


def show_rate(rate: float) -> str:
    """Return a rate as text, with its significant digits."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def show_time(seconds: float) -> str:
    """Return a time as ``2.8 s``, ``42 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
