"""The search for the best settings: short runs on all devices, and the three with most rows a second."""

from __future__ import annotations

from collections.abc import Sequence

from .measure import Space
from .report import Row

#: How long each setting runs where the user says nothing.
DURATION_S = 1.0
#: What is tried where the user says nothing: batch sizes as multiples of what keeps all devices busy.
BATCH_FACTORS = (1, 2, 4, 8)
INSTANCES = (1, 2)
IN_FLIGHT = (1, 2, 4)
_BEST = 3


def search_space(
    batch_sizes: Sequence[int] | None, instances: Sequence[int] | None, in_flight: Sequence[int] | None
) -> Space:
    """Return what is to be tried: what the user says, and the usual where that is None."""
    return Space(
        is_all=True,
        batch_sizes=batch_sizes,
        instances=instances or INSTANCES,
        in_flight=in_flight or IN_FLIGHT,
        batch_factors=BATCH_FACTORS,
    )


def find_best(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of highest throughput, best first; of equals, those of lower latency."""

    def rank(row: Row) -> tuple[float, float]:
        return -row.rows_per_s, next(iter(row.latency_ms.values()))

    return sorted(rows, key=rank)[:_BEST]
