"""The arithmetic of the figures: pure functions of times and numbers.

throughput
    rows/s and calls/s, over the time from the last end of a call of the warm-up to the last end of a measured call.
spread
    the measured calls are taken in five rounds of as many calls each, in the order of their ends; half the difference
    between the longest round and the shortest, as a share of the mean.
latency
    of one call, from ``predict`` or ``submit`` to its result; percentiles are interpolated as numpy does.
efficiency
    rows/s against the number of devices times the rows/s of the first device alone, with the same settings in the same
    run.
host overhead
    what the host adds to a call: its latency without the time its slowest share was computed or waited for a device
    that computed another call's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

#: In so many rounds the measured calls are taken, to tell the spread.
ROUNDS = 5
#: With fewer calls nothing is told: each round has two.
MIN_CALLS = 2 * ROUNDS

_NS_PER_S = 1e9
_NS_PER_MS = 1e6


def throughput(count: float, started_ns: int, ended_ns: int) -> float:
    """Return how many of something there were in a second."""
    return count * _NS_PER_S / max(ended_ns - started_ns, 1)


def spread(started_ns: int, ends_ns: Sequence[int]) -> float:
    """Return the spread of the throughput as a share of it: 0.02 is "plus or minus 2 %".

    Args:
        started_ns: when measuring began.
        ends_ns: when each call ended, in order; at least :data:`ROUNDS`.
    """
    marks = [len(ends_ns) * i // ROUNDS for i in range(ROUNDS + 1)]
    times = [started_ns, *ends_ns]
    ns_a_call = [(times[last] - times[first]) / (last - first) for first, last in itertools.pairwise(marks)]
    return (max(ns_a_call) - min(ns_a_call)) / 2 / ((times[-1] - times[0]) / len(ends_ns))


def percentiles_ms(latencies_ns: Sequence[int], percentiles: Sequence[float]) -> dict[float, float]:
    """Return each percentile of latencies, in milliseconds."""
    found = np.percentile(np.asarray(latencies_ns, np.float64), list(percentiles)) / _NS_PER_MS
    return dict(zip(percentiles, map(float, found), strict=True))


def efficiency(rows_per_s: float, devices: int, rows_per_s_of_one: float) -> float:
    """Return which share of the devices' own throughput is there: 1.0 where each adds as much as the first alone."""
    return rows_per_s / (devices * rows_per_s_of_one)


def share_out(whole: float, parts: dict[str, int]) -> dict[str, float]:
    """Return a whole in proportion to parts; zeros where all parts are zero."""
    total = sum(parts.values())
    return {name: whole * part / total if total else 0.0 for name, part in parts.items()}


def calls_needed(percentile: float) -> int:
    """Return how many calls it takes until one of them lies above a percentile: 100 for p99."""
    return round(100 / (100 - percentile)) if percentile < 100 else 1
