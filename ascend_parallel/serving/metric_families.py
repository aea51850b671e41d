"""Prometheus metrics that have a value for each of several models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from .model_stats import FAILURES, Histogram

Model = TypeVar("Model")


class Families(Generic[Model]):
    """Makes metrics of what is read of each model.

    Attributes:
        prefix: begins the names of the metrics.
        labels: names of the labels that tell the models apart.
        models: (values of the labels, model) of each.
    """

    def __init__(self, prefix: str, labels: tuple[str, ...], models: Iterable[tuple[tuple[str, ...], Model]]) -> None:
        self.prefix = prefix
        self.labels = labels
        self.models = list(models)

    def counter(self, name: str, text: str, read: Callable[[Model], float]) -> Metric:
        """Return a counter."""
        family = CounterMetricFamily(self.prefix + name, text, labels=self.labels)
        for values, model in self.models:
            family.add_metric(values, read(model))
        return family

    def gauge(self, name: str, text: str, read: Callable[[Model], float]) -> Metric:
        """Return a gauge."""
        family = GaugeMetricFamily(self.prefix + name, text, labels=self.labels)
        for values, model in self.models:
            family.add_metric(values, read(model))
        return family

    def failures(self, name: str, text: str, read: Callable[[Model], Counter[str]]) -> Metric:
        """Return a counter with the reason of each failure as one more label."""
        family = CounterMetricFamily(self.prefix + name, text, labels=(*self.labels, "reason"))
        for values, model in self.models:
            for reason in FAILURES:
                family.add_metric((*values, reason), read(model)[reason])
        return family

    def histogram(self, name: str, text: str, read: Callable[[Model], Histogram], *, shown: int) -> Metric:
        """Return a histogram, of which one bucket of ``shown`` is shown."""
        family = HistogramMetricFamily(self.prefix + name, text, labels=self.labels)
        for values, model in self.models:
            histogram = read(model)
            family.add_metric(values, _count_buckets(histogram, shown), histogram.total)
        return family


def _count_buckets(histogram: Histogram, shown: int) -> list[tuple[str, float]]:
    """Return (upper end, count up to it) of the buckets that are shown."""
    buckets = []
    below = 0
    for position, (bound, count) in enumerate(zip(histogram.bounds, histogram.counts, strict=False)):
        below += count
        if position % shown == shown - 1:
            buckets.append((f"{bound:g}", below))
    return [*buckets, ("+Inf", histogram.count)]
