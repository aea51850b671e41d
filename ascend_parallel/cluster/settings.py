"""What the user asked for, checked before Ray is called: devices by type, how many, and what each actor gets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ascend_parallel.checks import check_bool, check_type, check_whole_number, refuse
from ascend_parallel.devices.spec import ALIASES, DEVICE_TYPES
from ascend_parallel.errors import DeviceSpecError, UsageError
from ascend_parallel.worker.engines import Engine

#: Device type -> the resource of Ray that one device takes.
RESOURCES = {"ascend": "NPU", "gpu": "GPU", "tensorrt": "GPU", "cpu": "CPU", "openvino": "CPU", "simulated": "CPU"}
#: Device type -> the variable by which Ray tells an actor its devices, which then count from 0.
VARIABLES = {
    "ascend": "ASCEND_RT_VISIBLE_DEVICES",
    "gpu": "CUDA_VISIBLE_DEVICES",
    "tensorrt": "CUDA_VISIBLE_DEVICES",
}
#: Stands for all devices, those of hosts that join later, too.
ALL = "*"


class HostSpec(NamedTuple):
    """What a host's actor is built with.

    Attributes:
        models: model name -> path or ``module:factory``.
        device_type: of its devices.
        devices: how many it has.
        resource: Ray's name of what a device takes.
        options: arguments of ``ParallelPredictUtils`` besides the model and the devices.
        is_outer_budget: whether the end of a worker process counts against its task only, not against its device.
        import_path: where the driver looks for modules; searched after the actor's own path.
        required: files and folders that the host must see: those of a run are on storage that all hosts share.
        shipped: model name -> the files that are sent; see ``model_files.py``. Empty where hosts have the files.
        version: of this package, in the driver.
    """

    models: dict[str, str]
    device_type: str
    devices: int
    resource: str
    options: dict[str, Any]
    is_outer_budget: bool
    import_path: list[str]
    required: list[str]
    shipped: dict[str, Any]
    version: str


def read_device_type(devices: str | None, engine: type[Engine]) -> str | None:
    """Return the device type of ``"ascend:*"`` or ``"ascend"``; None where Ray's resources are to decide.

    Raises:
        DeviceSpecError: it names ids, or a type that is unknown or that the engine does not run on.
    """
    if devices is None:
        return None
    check_type("devices", devices, str, "text such as 'ascend:*'")
    name, colon, ids = devices.partition(":")
    kind = ALIASES.get(name.strip().lower(), name.strip().lower())
    if kind not in DEVICE_TYPES:
        raise DeviceSpecError(f"devices is {devices!r}; expected a type, such as ascend:*, gpu:* or cpu:*")
    if colon and ids.strip() != ALL:
        raise DeviceSpecError(
            f"devices is {devices!r}, but Ray chooses the devices of a cluster: write {kind}:*, and num_devices=N for "
            "N of them"
        )
    check_device_type(kind, engine)
    return kind


def check_device_type(kind: str, engine: type[Engine]) -> None:
    """Check that the engine runs on devices of a type; raises DeviceSpecError."""
    if kind not in engine.device_types:
        raise DeviceSpecError(
            f"the engine {engine.name} does not run on {kind} devices; it runs on {', '.join(engine.device_types)}"
        )


def choose_device_type(engine: type[Engine], resources: set[str]) -> str:
    """Return the best device type that the engine runs on and that the cluster has."""
    for kind in ("ascend", "gpu"):
        if kind in engine.device_types and RESOURCES[kind] in resources:
            return kind
    return engine.device_types[-1]


def read_num_devices(num_devices: int | str, devices_per_actor: int | None) -> int | None:
    """Return how many devices are wanted; None for all.

    Raises:
        UsageError: it is no number, or no multiple of ``devices_per_actor``.
    """
    if devices_per_actor is not None:
        check_whole_number("devices_per_actor", devices_per_actor, 1)
    if num_devices == ALL:
        return None
    if type(num_devices) is not int or num_devices < 1:
        refuse("num_devices", num_devices, "a whole number, at least 1, or '*' for all devices of the cluster")
    if devices_per_actor is not None and num_devices % devices_per_actor:
        raise UsageError(
            f"num_devices is {num_devices}, which actors of devices_per_actor={devices_per_actor} do not add up to"
        )
    return num_devices


def choose_workers(workers: str | None, engine: type[Engine], worker_python: object, share_weights: bool) -> str:
    """Return what runs the model on each host: threads of the actor, unless something needs worker processes.

    With threads, the engine reads its inputs in Ray's shared memory.
    """
    check_bool("share_weights", share_weights)
    if workers is not None:
        if workers not in ("threads", "processes"):
            refuse("workers", workers, "threads or processes")
        return workers
    needs_processes = worker_python is not None or share_weights or not engine.may_run_in_threads
    return "processes" if needs_processes else "threads"


def choose_resource(kind: str, resource: str | None) -> str:
    """Return the resource of Ray that a device of a type takes.

    Raises:
        UsageError: another one is named for devices whose ids Ray assigns by its own.
    """
    check_text("resource", resource, "the name of a resource of Ray")
    if resource is None and kind not in RESOURCES:
        raise UsageError(f"Ray has no resource for {kind} devices of its own: name yours, as in resource='{kind}'")
    if resource is not None and kind in VARIABLES and resource != RESOURCES[kind]:
        raise UsageError(
            f"resource is {resource!r}, but Ray assigns the ids of {kind} devices by {RESOURCES[kind]} only: leave "
            "resource out"
        )
    return resource or RESOURCES[kind]


def check_text(name: str, value: str | None, expected: str) -> str | None:
    """Return an argument that is text and not empty, or None; raises UsageError."""
    if value is not None and (not isinstance(value, str) or not value):
        refuse(name, value, expected)
    return value


def whole_paths(models: Mapping[str, str], engine: type[Engine]) -> dict[str, str]:
    """Return the models with absolute paths: a host's working directory is another."""
    return {name: os.path.abspath(path) if engine.suffixes else whole_name(path) for name, path in models.items()}


def whole_name(name: str) -> str:
    """Return ``path/to/file.py:name`` with an absolute path; other names stay as they are."""
    source, colon, attribute = name.rpartition(":")
    return f"{os.path.abspath(source)}{colon}{attribute}" if source.endswith(".py") else name


def read_cluster(text: str) -> str | None:
    """Return the address in ``ray=ADDRESS``; None for ``ray``.

    Raises:
        UsageError: it is neither.
    """
    name, equals, address = text.partition("=") if isinstance(text, str) else ("", "", "")
    if name != "ray" or (equals and not address):
        refuse("cluster", text, "ray, or ray=ADDRESS such as ray=10.0.0.1:6379")
    return address or None
