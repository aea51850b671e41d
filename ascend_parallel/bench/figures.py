"""The arithmetic of the figures: pure functions of times and numbers.

throughput
    rows/s and calls/s, over the time from the end of the warm-up's last call to the end of the last measured call.
spread
    the measured calls are divided into five rounds of equally many calls, in the order of their ends. The spread is
    half the difference between the longest and the shortest round, relative to the mean.
latency
    the time of one call, from ``predict`` or ``submit`` to its result; percentiles are interpolated as in numpy.
efficiency
    rows/s, relative to the number of devices times the rows/s of the first device alone, with the same settings in the
    same run.
host overhead
    what the host adds to a call: its latency, minus the compute time of its slowest task, minus the time that this task
    waited for a device that computed other calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

#: The number of rounds for the spread.
ROUNDS = 5
#: Fewer calls give no figures: each round has two calls.
MIN_CALLS = 2 * ROUNDS

_NS_PER_S = 1e9
_NS_PER_MS = 1e6


def throughput(count: float, started_ns: int, ended_ns: int) -> float:
    """Return a count per second."""
    return count * _NS_PER_S / max(ended_ns - started_ns, 1)


def spread(started_ns: int, ends_ns: Sequence[int]) -> float:
    """Return the spread of the throughput, relative to it: 0.02 means "plus or minus 2 %".

    Args:
        started_ns: the start of the measurement.
        ends_ns: the end of each call, in order; at least :data:`ROUNDS`.
    """
    marks = [len(ends_ns) * i // ROUNDS for i in range(ROUNDS + 1)]
    times = [started_ns, *ends_ns]
    ns_a_call = [(times[last] - times[first]) / (last - first) for first, last in itertools.pairwise(marks)]
    return (max(ns_a_call) - min(ns_a_call)) / 2 / ((times[-1] - times[0]) / len(ends_ns))


def percentiles_ms(latencies_ns: Sequence[int], percentiles: Sequence[float]) -> dict[float, float]:
    """Return percentiles of latencies, in milliseconds."""
    values = np.percentile(np.asarray(latencies_ns, np.float64), list(percentiles)) / _NS_PER_MS
    return dict(zip(percentiles, map(float, values), strict=True))


def efficiency(rows_per_s: float, devices: int, rows_per_s_of_one: float) -> float:
    """Return the throughput relative to ideal scaling: 1.0 if each device adds as much as the first one alone."""
    return rows_per_s / (devices * rows_per_s_of_one)


def distribute(total: float, parts: dict[str, int]) -> dict[str, float]:
    """Return a total, distributed in proportion to the parts; zeros if all parts are zero."""
    sum_of_parts = sum(parts.values())
    return {name: total * part / sum_of_parts if sum_of_parts else 0.0 for name, part in parts.items()}


def calls_needed(percentile: float) -> int:
    """Return how many calls are needed so that one of them is above a percentile: 100 for p99."""
    return round(100 / (100 - percentile)) if percentile < 100 else 1
