"""Prometheus metrics of image models: pictures and steps. What their three models do is among the metrics of models."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from ascend_parallel.serving.metric_families import Families

from .image_service import ImageService
from .picture_stats import PictureStats


class ImageCollector:
    """Yields the metrics of all image models; none where there are none."""

    def __init__(self, images: ImageService) -> None:
        models = [((model.name,), model.stats) for model in images]
        self._families: Families[PictureStats] = Families("ascend_parallel_image_", ("model",), models)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        of = self._families
        if not of.models:
            return
        yield of.counter("picture_success", "Pictures that were drawn", lambda stats: stats.pictures)
        yield of.failures("picture_failure", "Pictures that were not drawn, by reason", lambda stats: stats.failures)
        yield of.counter("step", "Denoising steps that were computed", lambda stats: stats.steps)
        yield of.gauge("waiting_picture_count", "Pictures that wait for their turn", lambda stats: stats.waiting)
        yield of.gauge("drawing_picture_count", "Pictures that are being drawn", lambda stats: stats.drawing)
        yield of.histogram("picture_seconds", "Pictures by time", lambda stats: stats.picture_s, shown=1)
