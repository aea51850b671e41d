"""The figures of a replica's models among Ray's metrics, where those of all replicas come together.

They have the names that ``/metrics`` of a server has, behind Ray's own prefix, and Ray Serve's tags beside ours.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ascend_parallel.serving.metric_names import COUNTERS, FAILURE, FAILURE_TEXT, GAUGES, LABELS, PREFIX, with_parts
from ascend_parallel.serving.model_stats import FAILURES
from ascend_parallel.serving.repository import Repository

#: Ray's own metrics are sent as often.
_INTERVAL_S = 5.0


class ReplicaMetrics:
    """Hands on what the models have counted."""

    def __init__(self, repository: Repository) -> None:
        from ray.serve import metrics

        self._repository = repository
        self._counters = {name: metrics.Counter(PREFIX + name, text, LABELS) for name, (text, _) in COUNTERS.items()}
        self._gauges = {name: metrics.Gauge(PREFIX + name, text, LABELS) for name, (text, _) in GAUGES.items()}
        self._failures = metrics.Counter(PREFIX + FAILURE, FAILURE_TEXT, (*LABELS, "reason"))
        self._told: dict[Any, float] = {}

    async def run(self) -> None:
        """Hand on what was counted, again and again."""
        while True:
            self.update()
            await asyncio.sleep(_INTERVAL_S)

    def update(self) -> None:
        """Hand on what was counted since the last time."""
        for model in with_parts(self._repository):
            tags = {"model": model.name, "version": model.version}
            for name, (_, read) in COUNTERS.items():
                self._increase(self._counters[name], name, read(model), tags)
            for reason in FAILURES:
                self._increase(self._failures, reason, model.stats.failures[reason], {**tags, "reason": reason})
            for name, (_, read) in GAUGES.items():
                self._gauges[name].set(float(read(model)), tags)

    def _increase(self, counter: Any, name: str, value: float, tags: dict[str, str]) -> None:
        key = (name, *tags.values())
        increase = value - self._told.get(key, 0.0)
        if increase > 0:  # a counter of Ray's refuses 0
            counter.inc(increase, tags)
            self._told[key] = value
