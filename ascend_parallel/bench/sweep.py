"""The search for the best settings: short runs on all devices, and the three settings with the highest throughput."""

from __future__ import annotations

from collections.abc import Sequence

from .measure import SearchSpace
from .report import Row

#: Seconds per setting, by default.
DURATION_S = 1.0
#: The settings that are tried by default: batch sizes as multiples of the size that keeps all devices busy.
BATCH_FACTORS = (1, 2, 4, 8)
INSTANCES = (1, 2)
IN_FLIGHT = (1, 2, 4)
#: Throughputs that differ by at most this share count as equal: short runs are not more precise.
EQUAL_SHARE = 0.03
_BEST = 3


def search_space(
    batch_sizes: Sequence[int] | None, instances: Sequence[int] | None, in_flight: Sequence[int] | None
) -> SearchSpace:
    """Return the search space: the user's values, and the defaults for those that are None."""
    return SearchSpace(
        is_all=True,
        batch_sizes=batch_sizes,
        instances=instances or INSTANCES,
        in_flight=in_flight or IN_FLIGHT,
        batch_factors=BATCH_FACTORS,
    )


def find_best(rows: Sequence[Row]) -> list[Row]:
    """Return three rows, best first; rows with about the highest throughput are ordered by latency."""
    highest = max(row.rows_per_s for row in rows)

    def rank(row: Row) -> tuple[float, float]:
        latency_ms = next(iter(row.latency_ms.values()))
        return (0.0, latency_ms) if row.rows_per_s >= (1 - EQUAL_SHARE) * highest else (1.0, -row.rows_per_s)

    return sorted(rows, key=rank)[:_BEST]
