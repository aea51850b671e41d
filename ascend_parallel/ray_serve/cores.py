"""The cores of a replica: its part of the host's, which the threads of all that it serves share."""

from __future__ import annotations

from ascend_parallel.cluster.host import assigned_ids, count_of_host, set_thread_variables
from ascend_parallel.cluster.settings import RESOURCES
from ascend_parallel.devices import usable_cores
from ascend_parallel.devices.spec import limit_cores


def limit_to_own_cores() -> None:
    """Have engines, worker processes and their libraries use the cores of this replica only."""
    cores = cores_of_replica()
    limit_cores(cores)
    set_thread_variables(cores)


def cores_of_replica() -> int:
    """Return how many cores this replica is to use.

    With NPUs or GPUs, it is as large a part of the host's cores as of its devices; else, the CPUs that Ray assigned.
    """
    import ray

    for kind in ("ascend", "gpu"):
        count = len(assigned_ids(kind))
        if count:
            return max(1, usable_cores() * count // max(count, count_of_host(RESOURCES[kind])))
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0)))
