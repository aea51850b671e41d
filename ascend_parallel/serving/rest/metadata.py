"""What the protocol tells of the server and its models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ascend_parallel import __version__
from ascend_parallel.serving.datatypes import find_datatype
from ascend_parallel.serving.model_stats import Histogram
from ascend_parallel.serving.repository import Repository
from ascend_parallel.serving.served_model import ServedModel
from ascend_parallel.worker.engines import TensorSpec

SERVER_NAME = "ascend_parallel"


def describe_server(extensions: Iterable[str]) -> dict[str, Any]:
    """Return the server metadata."""
    return {"name": SERVER_NAME, "version": __version__, "extensions": list(extensions)}


def describe_model(model: ServedModel, versions: list[str]) -> dict[str, Any]:
    """Return the model metadata; a size that the model leaves open is -1."""
    runner = model.runner
    is_loaded = model.max_rows > 0
    return {
        "name": model.name,
        "versions": versions,
        "platform": f"ascend_parallel_{runner.engine_name}",
        "inputs": _describe_tensors(runner.inputs if is_loaded else None),
        "outputs": _describe_tensors(runner.outputs if is_loaded else None),
    }


def _describe_tensors(specs: Iterable[TensorSpec] | None) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "datatype": find_datatype(spec.name, spec.dtype),
            "shape": [size if isinstance(size, int) else -1 for size in spec.shape],
        }
        for spec in specs or ()
    ]


def describe_index(repository: Repository, *, only_ready: bool = False) -> list[dict[str, Any]]:
    """Return the repository index."""
    return [
        {"name": model.name, "version": model.version, "state": model.state, "reason": model.reason}
        for model in repository
        if not only_ready or model.is_ready
    ]


def describe_stats(models: Iterable[ServedModel]) -> dict[str, Any]:
    """Return the statistics of models, as Triton's statistics extension has them; times are in nanoseconds."""
    return {"model_stats": [_describe_stats(model) for model in models]}


def _describe_stats(model: ServedModel) -> dict[str, Any]:
    stats = model.stats
    failures = sum(stats.failures.values())
    return {
        "name": model.name,
        "version": model.version,
        "inference_count": stats.rows,
        "execution_count": stats.batches,
        "inference_stats": {
            "success": {"count": stats.successes, "ns": _ns(stats.request_s)},
            "fail": {"count": failures, "ns": 0},
            "queue": {"count": stats.queue_s.count, "ns": _ns(stats.queue_s)},
            "compute_infer": {"count": stats.compute_s.count, "ns": _ns(stats.compute_s)},
        },
        "batch_stats": [],
    }


def _ns(histogram: Histogram) -> int:
    return int(histogram.total * 1e9)
