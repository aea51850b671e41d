"""The figures of a replica's models among Ray's metrics, where those of all replicas come together.

They have the names that ``/metrics`` of a server has, behind Ray's own prefix, and Ray Serve's tags beside ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ascend_parallel.serving.model_stats import FAILURES
from ascend_parallel.serving.repository import Repository
from ascend_parallel.serving.served import Served

#: Ray's own metrics are sent as often.
_INTERVAL_S = 5.0
_PREFIX = "ascend_parallel_inference_"
_TAGS = ("model", "version")
Read = Callable[[Served], float]

_COUNTERS: dict[str, tuple[str, Read]] = {
    "request_success": ("Requests answered with outputs", lambda m: m.stats.successes),
    "count": ("Rows of the requests answered with outputs", lambda m: m.stats.rows),
    "exec_count": ("Batches computed", lambda m: m.stats.batches),
    "request_duration_us": ("Time of requests from arrival to answer", lambda m: m.stats.request_s.total * 1e6),
    "queue_duration_us": ("Time of requests until their batch was sent", lambda m: m.stats.queue_s.total * 1e6),
    "compute_infer_duration_us": ("Time of batches in the engine", lambda m: m.stats.compute_s.total * 1e6),
}
_GAUGES: dict[str, tuple[str, Read]] = {
    "pending_request_count": ("Requests that wait", lambda m: m.waiting),
    "running_batch_count": ("Batches that workers have", lambda m: m.running),
    "ready": ("1 if the model can compute", lambda m: m.is_ready),
}


class ReplicaMetrics:
    """Hands on what the models have counted."""

    def __init__(self, repository: Repository) -> None:
        from ray.serve import metrics

        self._repository = repository
        self._counters = {name: metrics.Counter(_PREFIX + name, text, _TAGS) for name, (text, _) in _COUNTERS.items()}
        self._gauges = {name: metrics.Gauge(_PREFIX + name, text, _TAGS) for name, (text, _) in _GAUGES.items()}
        self._failures = metrics.Counter(
            f"{_PREFIX}request_failure", "Requests that failed, by reason", (*_TAGS, "reason")
        )
        self._told: dict[Any, float] = {}

    async def run(self) -> None:
        """Hand on what was counted, again and again."""
        while True:
            self.update()
            await asyncio.sleep(_INTERVAL_S)

    def update(self) -> None:
        """Hand on what was counted since the last time."""
        for model in [part for served in self._repository for part in (served, *served.parts)]:
            tags = {"model": model.name, "version": model.version}
            for name, (_, read) in _COUNTERS.items():
                self._increase(self._counters[name], name, read(model), tags)
            for reason in FAILURES:
                self._increase(self._failures, reason, model.stats.failures[reason], {**tags, "reason": reason})
            for name, (_, read) in _GAUGES.items():
                self._gauges[name].set(float(read(model)), tags)

    def _increase(self, counter: Any, name: str, value: float, tags: dict[str, str]) -> None:
        key = (name, *tags.values())
        increase = value - self._told.get(key, 0.0)
        if increase > 0:  # a counter of Ray's refuses 0
            counter.inc(increase, tags)
            self._told[key] = value
