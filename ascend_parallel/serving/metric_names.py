"""What metrics tell of each model: for ``/metrics`` of a server, and for those of Ray Serve.

Names have the suffixes of Triton's metrics, which dashboards know, behind a prefix of our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .served import Served

PREFIX = "ascend_parallel_inference_"
LABELS = ("model", "version")
Read = Callable[[Served], float]

#: Name -> what it counts, and where that is found.
COUNTERS: dict[str, tuple[str, Read]] = {
    "request_success": ("Requests answered with outputs", lambda m: m.stats.successes),
    "count": ("Rows of the requests answered with outputs", lambda m: m.stats.rows),
    "exec_count": ("Batches computed", lambda m: m.stats.batches),
    "request_duration_us": ("Time of requests from arrival to answer", lambda m: m.stats.request_s.total * 1e6),
    "queue_duration_us": ("Time of requests until their batch was sent", lambda m: m.stats.queue_s.total * 1e6),
    "compute_infer_duration_us": ("Time of batches in the engine", lambda m: m.stats.compute_s.total * 1e6),
}
#: Name -> what it shows, and where that is found.
GAUGES: dict[str, tuple[str, Read]] = {
    "pending_request_count": ("Requests that wait", lambda m: m.waiting),
    "running_batch_count": ("Batches that workers have", lambda m: m.running),
    "ready": ("1 if the model can compute", lambda m: int(m.is_ready)),
}
#: A counter with one more label, the reason.
FAILURE, FAILURE_TEXT = "request_failure", "Requests that failed, by reason"


def with_parts(repository: Iterable[Served]) -> list[Served]:
    """Return all models and pipelines, and the ops of pipelines, which are named "pipeline/op"."""
    return [model for served in repository for model in (served, *served.parts)]
