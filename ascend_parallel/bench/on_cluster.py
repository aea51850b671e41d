"""The runner of a benchmark on the hosts of a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ascend_parallel.cluster.runner import ClusterPredictUtils
from ascend_parallel.cluster.settings import ALL, read_cluster


def make_cluster_runner(model: str, count: int | None, options: Mapping[str, Any]) -> ClusterPredictUtils:
    """Return a runner on so many devices; ``options`` has "cluster", and "num_devices", the number if there is none."""
    told = dict(options)
    address = read_cluster(told.pop("cluster"))
    wanted = told.pop("num_devices", None) or ALL
    return ClusterPredictUtils(model, address=address, num_devices=count or wanted, **told)
