"""What the protocol tells of the server and its models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ascend_parallel import __version__
from ascend_parallel.serving.datatypes import find_datatype
from ascend_parallel.serving.model_stats import Histogram
from ascend_parallel.serving.repository import Repository
from ascend_parallel.serving.served import Served
from ascend_parallel.worker.engines import TensorSpec

SERVER_NAME = "ascend_parallel"


def describe_server(extensions: Iterable[str]) -> dict[str, Any]:
    """Return the server metadata."""
    return {"name": SERVER_NAME, "version": __version__, "extensions": list(extensions)}


def describe_model(model: Served, versions: list[str]) -> dict[str, Any]:
    """Return the model metadata; a size that the model leaves open is -1."""
    return {
        "name": model.name,
        "versions": versions,
        "platform": model.platform,
        "inputs": _describe_tensors(model.inputs),
        "outputs": _describe_tensors(model.outputs),
    }


def _describe_tensors(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "datatype": find_datatype(spec.name, spec.dtype),
            "shape": [size if isinstance(size, int) else -1 for size in spec.shape],
        }
        for spec in specs
    ]


def describe_config(model: Served) -> dict[str, Any]:
    """Return the configuration of a model as Triton's clients expect it: the minimum that they need.

    As in Triton, the axis of the batch is not among the dims of a model that has a ``max_batch_size``. A model of which
    an input or output has no open first axis for its rows has 0 there, and its whole shapes as dims.
    """
    inputs, outputs = (describe_model(model, [])[side] for side in ("inputs", "outputs"))
    is_batched = bool(inputs and outputs) and all(tensor["shape"][:1] == [-1] for tensor in (*inputs, *outputs))
    is_batched = is_batched and all(axis == 0 for axis in model.batch_axes.values())
    return {
        "name": model.name,
        "platform": model.platform,
        "backend": SERVER_NAME,
        "max_batch_size": model.max_rows if is_batched else 0,
        "input": [_describe_config_tensor(tensor, is_batched) for tensor in inputs],
        "output": [_describe_config_tensor(tensor, is_batched) for tensor in outputs],
        "model_transaction_policy": {"decoupled": False},
    }


def _describe_config_tensor(tensor: dict[str, Any], is_batched: bool) -> dict[str, Any]:
    dims = tensor["shape"][1:] if is_batched else tensor["shape"]
    return {"name": tensor["name"], "data_type": f"TYPE_{tensor['datatype']}", "dims": dims}


def describe_index(repository: Repository, *, only_ready: bool = False) -> list[dict[str, Any]]:
    """Return the repository index."""
    return [
        {"name": model.name, "version": model.version, "state": model.state, "reason": model.reason}
        for model in repository
        if not only_ready or model.is_ready
    ]


def describe_stats(models: Iterable[Served]) -> dict[str, Any]:
    """Return the statistics of models, as Triton's statistics extension has them; times are in nanoseconds.

    The ops of a pipeline follow it.
    """
    return {"model_stats": [_describe_stats(part) for model in models for part in (model, *model.parts)]}


def _describe_stats(model: Served) -> dict[str, Any]:
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
