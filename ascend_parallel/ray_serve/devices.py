"""The devices of a replica: which it could have, what it asks Ray for, and which Ray gave it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ascend_parallel.cluster import ray_session
from ascend_parallel.cluster.host import assigned_ids, local_ids
from ascend_parallel.cluster.settings import RESOURCES
from ascend_parallel.devices import Device
from ascend_parallel.devices.discovery import Discovery, FoundDevice
from ascend_parallel.devices.spec import LABELLED
from ascend_parallel.errors import DeviceSpecError, UsageError

from .connection import connected

#: The types whose devices Ray assigns by number.
_ASSIGNED = ("ascend", "gpu")


def candidate_devices(named: Iterable[Device], per_replica: int | None, *, is_complete: bool) -> Discovery:
    """Return the devices that a replica could have, by their numbers in it.

    Args:
        named: the hardware that the configuration names.
        per_replica: how many NPUs or GPUs a replica is to have; None: those that are named, else all of a host.
        is_complete: whether all that is served names its devices; if not, the cluster is asked for what hosts have.

    Raises:
        UsageError: hosts have different numbers.
    """
    counts = {kind: max((one.id + 1 for one in named if one.type == kind), default=0) for kind in _ASSIGNED}
    if not is_complete:
        counts = _counts_of_cluster(per_replica)
    if per_replica is not None:
        counts = {kind: per_replica for kind, count in counts.items() if count}
    return _discovery_of({kind: range(count) for kind, count in counts.items()})


def _counts_of_cluster(per_replica: int | None) -> dict[str, int]:
    """Return how many devices of each type a host has."""
    with connected():
        hosts = {kind: ray_session.survey(RESOURCES[kind]) for kind in _ASSIGNED}
    for kind, nodes in hosts.items():
        if per_replica is None and len({node.total for node in nodes}) > 1:
            told = ", ".join(f"{node.name} has {node.total}" for node in nodes)
            raise UsageError(
                f"a replica gets all {RESOURCES[kind]} of a host, and hosts have different numbers: {told}; say how "
                "many with devices_per_replica"
            )
    return {kind: max((node.total for node in nodes), default=0) for kind, nodes in hosts.items()}


def given_devices() -> Discovery:
    """Return the devices that Ray gave to this replica, by their numbers in this process."""
    assigned = {kind: assigned_ids(kind) for kind in _ASSIGNED}
    return _discovery_of({kind: local_ids(kind, len(ids), ids) for kind, ids in assigned.items()})


def _discovery_of(ids: Mapping[str, Iterable[int]]) -> Discovery:
    """Return the devices of these types and ids as if they were found, and all that there is."""
    found = [Device(kind, number) for kind, numbers in ids.items() for number in numbers]
    devices = [FoundDevice(device, source="Ray") for device in (*found, Device("cpu", 0))]
    return Discovery(devices, complete=frozenset(_ASSIGNED))


def add_resources(options: Mapping[str, Any], chosen: Iterable[Device], per_replica: int | None) -> dict[str, Any]:
    """Return the deployment's options, with what a replica needs of Ray's resources; what the user says goes first.

    Args:
        options: as the user gave them.
        chosen: the hardware that is run on, by its numbers in a replica.
        per_replica: how many NPUs or GPUs a replica is to have.

    Raises:
        UsageError: a number of NPUs or GPUs is given, and nothing runs on them.
        DeviceSpecError: numbers do not count from 0, or Ray has no resource for a type and the user names none.
    """
    ids: dict[str, set[int]] = {}
    for device in chosen:
        ids.setdefault(device.type, set()).add(device.id)
    for kind in _ASSIGNED:
        if per_replica is None and ids.get(kind, set()) != set(range(len(ids.get(kind, ())))):
            raise DeviceSpecError(
                f"the models run on {kind}:{','.join(map(str, sorted(ids[kind])))}, but in a replica devices count "
                f"from 0: Ray chooses which ones; write {kind}:0 for the first"
            )
    if per_replica is not None and not ids.keys() & set(_ASSIGNED):
        raise UsageError(
            f"devices_per_replica is {per_replica}, but nothing would run on an NPU or a GPU; CPUs are given with "
            f"ray_actor_options={{'num_cpus': {per_replica}}}"
        )
    given = dict(options.get("ray_actor_options") or {})
    resources = dict(given.get("resources") or {})
    told: dict[str, Any] = {"num_cpus": max(1, *(len(ids.pop(kind, ())) for kind in LABELLED))}
    if "gpu" in ids:
        told["num_gpus"] = per_replica or len(ids["gpu"])
    if "ascend" in ids:
        resources = {"NPU": per_replica or len(ids["ascend"]), **resources}
    for kind in ids.keys() - set(_ASSIGNED):
        if not resources:
            raise DeviceSpecError(
                f"Ray has no resource for {kind} devices of its own: name yours, as in "
                f"ray_actor_options={{'resources': {{'{kind}': 1}}}}"
            )
    return {**options, "ray_actor_options": {**told, **given, **({"resources": resources} if resources else {})}}
