"""The buckets of a histogram, as Prometheus has them."""

from __future__ import annotations

from .model_stats import Histogram


def count_buckets(histogram: Histogram, shown: int) -> list[tuple[str, float]]:
    """Return (upper end, count up to it) of the buckets that are shown, one of ``shown``."""
    buckets = []
    below = 0
    for position, (bound, count) in enumerate(zip(histogram.bounds, histogram.counts, strict=False)):
        below += count
        if position % shown == shown - 1:
            buckets.append((f"{bound:g}", below))
    return [*buckets, ("+Inf", histogram.count)]
