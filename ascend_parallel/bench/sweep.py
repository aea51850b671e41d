"""The search for the best settings: short runs on all devices, and the three that give most."""

from __future__ import annotations

from collections.abc import Sequence

from .measure import SearchSpace
from .report import Row

#: How long each setting runs where the user says nothing.
DURATION_S = 1.0
#: What is tried where the user says nothing: batch sizes as multiples of what keeps all devices busy.
BATCH_FACTORS = (1, 2, 4, 8)
INSTANCES = (1, 2)
IN_FLIGHT = (1, 2, 4)
#: Throughputs that differ by no more than this share are taken for equal: short runs tell no finer.
EQUAL = 0.03
_BEST = 3


def search_space(
    batch_sizes: Sequence[int] | None, instances: Sequence[int] | None, in_flight: Sequence[int] | None
) -> SearchSpace:
    """Return what is to be tried: what the user says, and the usual where that is None."""
    return SearchSpace(
        is_all=True,
        batch_sizes=batch_sizes,
        instances=instances or INSTANCES,
        in_flight=in_flight or IN_FLIGHT,
        batch_factors=BATCH_FACTORS,
    )


def find_best(rows: Sequence[Row]) -> list[Row]:
    """Return three rows, best first: of those that give about as much as the best, the ones of lowest latency."""
    most = max(row.rows_per_s for row in rows)

    def rank(row: Row) -> tuple[float, float]:
        latency_ms = next(iter(row.latency_ms.values()))
        return (0.0, latency_ms) if row.rows_per_s >= (1 - EQUAL) * most else (1.0, -row.rows_per_s)

    return sorted(rows, key=rank)[:_BEST]
