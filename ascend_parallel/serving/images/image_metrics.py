"""Prometheus metrics of image models: pictures and steps. What their three models do is among the metrics of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ascend_parallel.serving.metric_buckets import count_buckets
from ascend_parallel.serving.model_stats import FAILURES

from .image_service import ImageService
from .picture_stats import PictureStats

_PREFIX = "ascend_parallel_image_"
_LABELS = ("model",)


class ImageCollector:
    """Yields the metrics of all image models; none where there are none."""

    def __init__(self, images: ImageService) -> None:
        self._models = list(images)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        if not self._models:
            return
        yield self._counter("picture_success", "Pictures that were drawn", lambda stats: stats.pictures)
        yield self._failures()
        yield self._counter("step", "Denoising steps that were computed", lambda stats: stats.steps)
        yield self._gauge("waiting_picture_count", "Pictures that wait for their turn", lambda stats: stats.waiting)
        yield self._gauge("drawing_picture_count", "Pictures that are being drawn", lambda stats: stats.drawing)
        yield self._seconds()

    def _counter(self, name: str, text: str, read: Callable[[PictureStats], float]) -> Metric:
        family = CounterMetricFamily(_PREFIX + name, text, labels=_LABELS)
        for model in self._models:
            family.add_metric((model.name,), read(model.stats))
        return family

    def _gauge(self, name: str, text: str, read: Callable[[PictureStats], float]) -> Metric:
        family = GaugeMetricFamily(_PREFIX + name, text, labels=_LABELS)
        for model in self._models:
            family.add_metric((model.name,), read(model.stats))
        return family

    def _failures(self) -> Metric:
        family = CounterMetricFamily(
            _PREFIX + "picture_failure", "Pictures that were not drawn, by reason", labels=(*_LABELS, "reason")
        )
        for model in self._models:
            for reason in FAILURES:
                family.add_metric((model.name, reason), model.stats.failures[reason])
        return family

    def _seconds(self) -> Metric:
        family = HistogramMetricFamily(_PREFIX + "picture_seconds", "Pictures by time", labels=_LABELS)
        for model in self._models:
            histogram = model.stats.picture_s
            family.add_metric((model.name,), count_buckets(histogram, 1), histogram.total)
        return family
