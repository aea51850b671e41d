"""Prometheus metrics: read from what is counted anyway, when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from ascend_parallel.errors import AscendParallelError

from .images.image_metrics import ImageCollector
from .images.image_service import ImageService
from .metric_families import Families
from .metric_names import COUNTERS, FAILURE, FAILURE_TEXT, GAUGES, LABELS, PREFIX, with_parts
from .repository import Repository
from .served import Served

#: One bucket of so many is shown of a histogram of times: 21 are enough for a dashboard.
_SHOWN_TIMES = 3


def write_metrics(repository: Repository, images: ImageService, accept: str) -> tuple[bytes, str]:
    """Return the metrics in the format that a client accepts, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(repository))
    registry.register(ImageCollector(images))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collector:
    """Yields the metrics of all models, of pipelines, and of their ops as "pipeline/op"."""

    def __init__(self, repository: Repository) -> None:
        self._models = with_parts(repository)
        labelled = [((model.name, model.version), model) for model in self._models]
        self._families: Families[Served] = Families(PREFIX, LABELS, labelled)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        of = self._families
        for name, (text, read) in COUNTERS.items():
            yield of.counter(name, text, read)
        yield of.failures(FAILURE, FAILURE_TEXT, lambda m: m.stats.failures)
        for name, (text, read) in GAUGES.items():
            yield of.gauge(name, text, read)
        yield self._times("request_seconds", "Requests by time", "request_s")
        yield self._times("queue_seconds", "Requests by time until their batch was sent", "queue_s")
        yield self._times("compute_seconds", "Batches by time in the engine", "compute_s")
        yield of.histogram("batch_rows", "Batches by rows", lambda m: m.stats.batch_rows, shown=1)
        yield from self._workers()

    def _times(self, name: str, text: str, attribute: str) -> Metric:
        return self._families.histogram(name, text, lambda m: getattr(m.stats, attribute), shown=_SHOWN_TIMES)

    def _workers(self) -> Iterator[Metric]:
        labels = (*LABELS, "worker")
        ready = GaugeMetricFamily("ascend_parallel_worker_ready", "1 if the worker can compute", labels=labels)
        restarts = CounterMetricFamily("ascend_parallel_worker_restarts", "Restarts of the worker", labels=labels)
        busy = CounterMetricFamily("ascend_parallel_worker_busy_seconds", "Time in the engine", labels=labels)
        rows = CounterMetricFamily("ascend_parallel_worker_rows", "Rows computed", labels=labels)
        memory = GaugeMetricFamily("ascend_parallel_shared_memory_bytes", "Shared memory in use", labels=LABELS)
        for model in self._models:
            if not model.shows_workers:
                continue
            stats = _stats_of(model)
            for label, worker in stats["workers"].items():
                values = (model.name, model.version, label)
                ready.add_metric(values, int(worker["state"] == "ready"))
                restarts.add_metric(values, worker["restarts"])
                busy.add_metric(values, worker["busy_s"])
                rows.add_metric(values, worker["rows"])
            memory.add_metric((model.name, model.version), stats["shared_memory"]["mapped_bytes"])
        yield from (ready, restarts, busy, rows, memory)


def _stats_of(model: Served) -> dict[str, Any]:
    try:
        return model.worker_stats()
    except AscendParallelError:  # not loaded, or all workers are lost
        return {"workers": {}, "shared_memory": {"mapped_bytes": 0}}
