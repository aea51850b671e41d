"""Device specifications (``ascend:0,1``, ``gpu:0,2``, ``tensorrt:0``, ``cpu``) and the default choice of devices.

This module does not look for hardware: :mod:`ascend_parallel.devices.discovery` does, and returns a
:class:`Discovery`. Only :func:`usable_cores` reads the system: the cores that the kernel grants this process.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ascend_parallel.errors import DeviceSpecError

__all__ = [
    "DEVICE_TYPES",
    "HARDWARE",
    "PADDLE_TYPES",
    "Device",
    "Discovery",
    "FoundDevice",
    "check_devices_exist",
    "default_devices",
    "limit_cores",
    "parse_devices",
    "parse_visible_ascend",
    "usable_cores",
]

#: Types that only PaddleX and PaddleOCR run on, by Paddle's own names: see :mod:`.vendor_tools`.
PADDLE_TYPES = ("xpu", "mlu", "gcu", "dcu", "iluvatar_gpu", "metax_gpu")
DEVICE_TYPES = ("ascend", "gpu", "tensorrt", "cpu", "openvino", "simulated", *PADDLE_TYPES)
#: Types that name a way to run a model on hardware that has a type of its own.
HARDWARE = {"tensorrt": "gpu", "openvino": "cpu"}
#: Types whose ids are labels: any number of such devices shares the hardware.
LABELLED = ("cpu", "openvino", "simulated")
#: What :func:`limit_cores` was told.
_core_limits: list[int] = []
ALIASES = {"npu": "ascend", "cuda": "gpu"}

MAX_RANGE_DEVICES = 1024  # far beyond any machine: a longer range is a typing error
ID_OR_RANGE = re.compile(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?", re.ASCII)
VISIBLE_IDS = re.compile(r"\d{1,9}(,\d{1,9})*", re.ASCII)
EXAMPLES = "'ascend:0,1', 'gpu:0-3' or 'cpu'"


class Device(NamedTuple):
    """One device; ``str(Device("ascend", 0))`` is ``"ascend:0"``.

    ``type`` is one of :data:`DEVICE_TYPES`. ``id`` counts from 0 among the devices that are visible to the process
    (see ``ASCEND_RT_VISIBLE_DEVICES``). For ``cpu``, ``openvino`` and ``simulated`` it is only a label. ``tensorrt:1``
    is the hardware of ``gpu:1``, ``openvino:1`` that of ``cpu:1``.
    """

    type: str
    id: int

    @property
    def hardware(self) -> Device:
        """The device by the type of its hardware: ``gpu:1`` for ``tensorrt:1``, and itself for most."""
        return Device(HARDWARE.get(self.type, self.type), self.id)

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"


def parse_devices(spec: str | Device | Iterable[str | Device]) -> list[Device]:
    """Parse a device specification; the devices keep the order of the specification.

    In a text, a part with a type starts a new type: ``"gpu:0,1,cpu:0"``. A list or tuple may mix texts and devices.
    ``npu`` means ``ascend``, ``cuda`` means ``gpu``, ``cpu`` means ``cpu:0`` and ``openvino`` means ``openvino:0``.

    Raises:
        DeviceSpecError: if the specification is empty or malformed, or names a device twice.
    """
    entries = _entries(spec)
    devices = [device for entry in entries for device in _parse_entry(entry)]
    if not devices:
        raise DeviceSpecError(f"the list of devices is empty: name some, such as {EXAMPLES}")
    _check_named_once(devices, ", ".join(map(str, entries)))
    return devices


def _check_named_once(devices: Iterable[Device], spec: str) -> None:
    seen: dict[Device, Device] = {}
    for device in devices:
        key = device if device.type in LABELLED else device.hardware
        if key in seen:
            same = "is named twice" if seen[key] == device else f"and {seen[key]} are the same card, named twice"
            raise DeviceSpecError(
                f"{device} {same} in {spec!r}: name it once (instances=2 puts two engines on one device)"
            )
        seen[key] = device


def _entries(spec: object) -> list[object]:
    if isinstance(spec, str | Device):
        return [spec]
    if isinstance(spec, Iterable):
        return list(spec)
    raise DeviceSpecError(f"devices is {spec!r}, a {type(spec).__name__}: name some by text such as {EXAMPLES}")


def _parse_entry(entry: object) -> Iterator[Device]:
    if not isinstance(entry, str | Device):
        raise DeviceSpecError(f"device {entry!r} is of type {type(entry).__name__}: give text such as {EXAMPLES}")
    spec, kind = str(entry), ""
    if not spec.strip():
        raise DeviceSpecError(f"the device specification is empty: name some, such as {EXAMPLES}")
    for part in spec.split(","):
        kind, ids = _split_part(part.strip(), kind, spec)
        for number in _parse_ids(ids, kind, spec):
            yield Device(kind, number)


def _split_part(part: str, kind: str, spec: str) -> tuple[str, str]:
    """Return the type (by default ``kind``, the type of the part before) and the ids (as text) of one part."""
    if not part:
        raise DeviceSpecError(f"a comma in {spec!r} has no device on one side: remove it")
    head, colon, ids = part.partition(":")
    if colon:
        return _device_type(head.strip(), spec), ids.strip()
    if part[0].isalpha():
        named = _device_type(part, spec)
        return named, "0" if named in ("cpu", "openvino") else ""
    if not kind:
        raise DeviceSpecError(f"{part!r} in {spec!r} has no device type: write it as 'ascend:{part}'")
    return kind, part


def _device_type(name: str, spec: str) -> str:
    known = ALIASES.get(name.lower(), name.lower())
    if known in DEVICE_TYPES:
        return known
    matches = difflib.get_close_matches(name.lower(), [*DEVICE_TYPES, *ALIASES], n=1)
    hint = f"did you mean {matches[0]!r}? " if matches else ""
    raise DeviceSpecError(
        f"unknown device type {name!r} in {spec!r}: {hint}known are ascend (or npu), gpu (or cuda), tensorrt, cpu, "
        f"openvino, simulated and, for PaddleX and PaddleOCR, {', '.join(PADDLE_TYPES)}"
    )


def _parse_ids(text: str, kind: str, spec: str) -> range:
    if not text:
        raise DeviceSpecError(f"{kind!r} has no ids in {spec!r}: write '{kind}:0' or '{kind}:0-3'")
    if text.startswith("-"):
        raise DeviceSpecError(f"device id {text} in {spec!r} is negative: ids count from 0, as in {kind}:0")
    match = ID_OR_RANGE.fullmatch(text)
    if not match:
        raise DeviceSpecError(
            f"{text!r} in {spec!r} is not a device id: write a number such as {kind}:0, or a range such as {kind}:0-3"
        )
    first = int(match[1])
    return _checked_range(first, int(match[2] or first), kind, spec)


def _checked_range(first: int, last: int, kind: str, spec: str) -> range:
    if last < first:
        raise DeviceSpecError(f"the range {first}-{last} in {spec!r} runs backwards: write {kind}:{last}-{first}")
    if last - first >= MAX_RANGE_DEVICES:
        raise DeviceSpecError(
            f"the range {first}-{last} in {spec!r} names {last - first + 1} devices; expected at most "
            f"{MAX_RANGE_DEVICES}: write a shorter range"
        )
    return range(first, last + 1)


def parse_visible_ascend(value: str) -> list[int]:
    """Parse the value of ``ASCEND_RT_VISIBLE_DEVICES``: logical ids, ascending and unique.

    CANN silently ignores everything from the first entry that it cannot read, such as a space or an id out of order.
    Then half of the chips are idle, or a worker fails with 207004. Such a value is refused here.

    Raises:
        DeviceSpecError: if the value is not a list of ascending, unique ids with commas and without spaces.
    """
    ids = [int(number) for number in value.split(",")] if VISIBLE_IDS.fullmatch(value) else []
    if ids and ids == sorted(set(ids)):
        return ids
    raise DeviceSpecError(
        f"ASCEND_RT_VISIBLE_DEVICES is {value!r}, and CANN would ignore a part of it: set it to "
        "ascending ids, each once, with commas and without spaces, such as '0,1', or unset it"
    )


@dataclass(frozen=True)
class FoundDevice:
    """One device of this machine; fields that its source does not report are None.

    ``device.id`` is the id inside this process. ``card`` and ``chip`` are npu-smi's "NPU ID" and "Chip ID"; they are
    not device ids. ``source`` names the tool or file that reported the device. ``note`` is a remark for the user.
    """

    device: Device
    name: str | None = None
    health: str | None = None
    memory_used_mb: int | None = None
    memory_total_mb: int | None = None
    bus_id: str | None = None
    card: int | None = None
    chip: int | None = None
    source: str = ""
    note: str = ""


@dataclass(frozen=True)
class Discovery:
    """The devices found, the warnings, and the device types whose list is known to be complete."""

    devices: list[FoundDevice] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    complete: frozenset[str] = frozenset()


def default_devices(discovery: Discovery) -> list[Device]:
    """Return the devices used by default: all Ascend devices, else all GPUs, else those of Paddle, else ``cpu:0``."""
    for kind in ("ascend", "gpu", *PADDLE_TYPES):
        devices = [found.device for found in discovery.devices if found.device.type == kind]
        if devices:
            return devices
    return [Device("cpu", 0)]


def check_devices_exist(devices: Iterable[Device], discovery: Discovery) -> None:
    """Refuse devices that are known not to exist; a type whose list may be incomplete is not checked.

    Raises:
        DeviceSpecError: if the list of a device's type is complete and does not contain the device.
    """
    for device in devices:
        needed = device.hardware
        known = [found.device for found in discovery.devices if found.device.type == needed.type]
        if needed.type in discovery.complete and needed not in known:
            available = f"has only {', '.join(map(str, known))}" if known else f"shows no {needed.type}"
            raise DeviceSpecError(
                f"there is no device {device} here: this process {available} "
                "(`ascend-parallel devices` shows what can be named)"
            )


def usable_cores(
    *,
    cgroup_root: Path = Path("/sys/fs/cgroup"),
    own_cgroups: Path = Path("/proc/self/cgroup"),
) -> int:
    """Return how many CPU cores this process may use: its affinity, limited by the quotas of its cgroups.

    A quota of 1.5 cores counts as 2. The result is at least 1. The arguments are for tests.

    Source: ``cpu.max`` (cgroup v2) and ``cpu.cfs_quota_us`` (v1) in the kernel's cgroup documentation.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quotas = (_quota_cores(folder) for folder in _cgroup_folders(cgroup_root, own_cgroups))
    return min([cores, *_core_limits, *(math.ceil(quota) for quota in quotas if quota is not None)])


def limit_cores(cores: int) -> None:
    """Let :func:`usable_cores` return at most so many from now on: this process shares its host with others."""
    _core_limits.append(cores)


def _cgroup_folders(root: Path, own_cgroups: Path) -> Iterator[Path]:
    """Return the folders that can hold a CPU quota of this process: its cgroup's and those of all its ancestors."""
    for line in _read(own_cgroups).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in {root / controllers, root / "cpu"} if controllers else {root, root / "unified"}:
            folder = mount / path.lstrip("/")
            # In a container, the path is often the host's and does not exist here: then the mount itself counts.
            yield from (above for above in (folder, *folder.parents) if above.is_relative_to(mount))


def _quota_cores(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = (_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # the quota is "max", or the file does not exist
        return None
    return cores if cores > 0 else None  # cgroup v1 writes -1 for "no limit"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
