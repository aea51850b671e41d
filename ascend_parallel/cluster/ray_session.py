"""The connection to a Ray cluster, and what its nodes have. Ray is imported here, when a runner is built."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ascend_parallel.checks import check_installed
from ascend_parallel.errors import UsageError

T = TypeVar("T")

#: How long a host may take to answer that it listens.
CONNECT_TIMEOUT_S = 10.0
INSTALL = "pip install 'ascend-parallel[ray]'"


class Node(NamedTuple):
    """A living node of the cluster.

    Attributes:
        id: Ray's id.
        name: the host's name; where several nodes have the same one, with the start of the id.
        total: how much of a resource it has.
        free: how much of it nobody holds.
    """

    id: str
    name: str
    total: int
    free: int


def check_ray(what: str) -> None:
    """Check that Ray is installed; raises UsageError."""
    check_installed(what, "ray", INSTALL)


def connect(address: str | None) -> bool:
    """Connect to a cluster, unless this program is connected already; return whether it was done here.

    Without an address, Ray decides: ``RAY_ADDRESS``, else a cluster that runs on this machine, else a new one with the
    resources of this machine.

    Raises:
        UsageError: there is no cluster at the address, or the program is connected and an address was given.
    """
    import ray

    if ray.is_initialized():
        if address is not None:
            raise UsageError(
                f"address is {address!r}, but this program is connected to Ray already: leave address out, or call "
                "ray.shutdown() before"
            )
        return False
    try:
        _check_listening(address)
        ray.init(address, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError, AssertionError, ray.exceptions.RayError) as error:
        where = "no Ray cluster could be started here" if address is None else f"there is no Ray cluster at {address!r}"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"{where} ({reason}); expected HOST:PORT of `ray start --head`, ray://HOST:10001, or auto"
        ) from None
    return True


def _check_listening(address: str | None) -> None:
    """Raise OSError if nobody listens at HOST:PORT: Ray itself would try for two minutes."""
    match = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d{1,5})", address or "")
    if match:
        socket.create_connection((match[1], int(match[2])), CONNECT_TIMEOUT_S).close()


def disconnect() -> None:
    """Leave the cluster."""
    import ray

    ray.shutdown()


def survey(resource: str) -> list[Node]:
    """Return the living nodes that have a resource."""
    nodes, free = _ask(_look)
    found = []
    for node in nodes:
        total = int(node["Resources"].get(resource, 0))
        if node["Alive"] and total:
            free_here = int(free.get(node["NodeID"], {}).get(resource, 0))
            found.append(Node(node["NodeID"], _name_of(node, nodes), total, free_here))
    return found


def host_name(node_id: str) -> str:
    """Return the name of a node's host; to be called in the cluster."""
    import ray

    nodes = ray.nodes()
    return next((_name_of(node, nodes) for node in nodes if node["NodeID"] == node_id), node_id[:6])


def _name_of(node: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> str:
    name: str = node["NodeManagerHostname"]
    is_unique = sum(other["NodeManagerHostname"] == name for other in nodes) == 1
    return name if is_unique else f"{name}-{node['NodeID'][:6]}"


def resources_of_cluster() -> set[str]:
    """Return the names of all resources that living nodes have."""
    nodes, _ = _ask(_look)
    return {name for node in nodes if node["Alive"] for name in node["Resources"]}


def _look() -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Return Ray's nodes, and what each has free; it runs in the cluster."""
    import ray
    from ray._private import state  # what is free on each node is public nowhere else

    return ray.nodes(), state.available_resources_per_node()


def _ask(function: Callable[[], T]) -> T:
    """Call a function that needs to be in the cluster: here, or, of a Ray client, in a task."""
    import ray

    if ray.util.client.ray.is_connected():
        answer: T = ray.get(ray.remote(num_cpus=0)(function).remote())
        return answer
    return function()
