"""Devices: how they are named (``ascend:0,1``, ``npu:0-3``, ``gpu:0,2``, ``cpu``), which to use.

Nothing here looks for hardware: that is :mod:`ascend_parallel.devices.discovery`, which fills a
:class:`Discovery`. Only :func:`usable_cores` reads what the kernel grants this process.
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
    "Device",
    "Discovery",
    "FoundDevice",
    "check_devices_exist",
    "default_devices",
    "parse_devices",
    "parse_visible_ascend",
    "usable_cores",
]

DEVICE_TYPES = ("ascend", "gpu", "cpu", "simulated")
ALIASES = {"npu": "ascend", "cuda": "gpu"}

MAX_RANGE_DEVICES = 1024  # far beyond any machine: a longer range is a slip of the keyboard
ID_OR_RANGE = re.compile(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?", re.ASCII)
VISIBLE_IDS = re.compile(r"\d{1,9}(,\d{1,9})*", re.ASCII)
EXAMPLES = "'ascend:0,1', 'gpu:0-3' or 'cpu'"


class Device(NamedTuple):
    """One device; ``str(Device("ascend", 0))`` is ``"ascend:0"``.

    ``type`` is one of :data:`DEVICE_TYPES`. ``id`` counts from 0 as the process sees its devices
    (after ``ASCEND_RT_VISIBLE_DEVICES``); for ``cpu`` and ``simulated`` it is only a label.
    """

    type: str
    id: int

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"


def parse_devices(spec: str | Device | Iterable[str | Device]) -> list[Device]:
    """Read a device specification, in the order in which it names the devices.

    In text a part with a type of its own starts a new type (``"gpu:0,1,cpu:0"``); a list or tuple
    may mix texts and devices. ``npu`` means ``ascend``, ``cuda`` ``gpu``, and ``cpu`` ``cpu:0``.

    Raises:
        DeviceSpecError: the specification is empty or malformed, or names a device twice.
    """
    entries = _entries(spec)
    devices = [device for entry in entries for device in _parse_entry(entry)]
    if not devices:
        raise DeviceSpecError(f"the list of devices is empty: name some, such as {EXAMPLES}")
    seen: set[Device] = set()
    for device in devices:
        if device in seen:
            raise DeviceSpecError(
                f"{device} is named twice in {', '.join(map(str, entries))!r}: name it once "
                "(instances=2 puts two engines on one device)"
            )
        seen.add(device)
    return devices


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
    """Part of a spec -> its type (or ``kind``, that of the part before) and its ids as text."""
    if not part:
        raise DeviceSpecError(f"a comma in {spec!r} has no device on one side: remove it")
    head, colon, ids = part.partition(":")
    if colon:
        return _device_type(head.strip(), spec), ids.strip()
    if part[0].isalpha():
        named = _device_type(part, spec)
        return named, "0" if named == "cpu" else ""
    if not kind:
        raise DeviceSpecError(f"{part!r} in {spec!r} has no device type: write it as 'ascend:{part}'")
    return kind, part


def _device_type(name: str, spec: str) -> str:
    known = ALIASES.get(name.lower(), name.lower())
    if known in DEVICE_TYPES:
        return known
    near = difflib.get_close_matches(name.lower(), [*DEVICE_TYPES, *ALIASES], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise DeviceSpecError(
        f"unknown device type {name!r} in {spec!r}: {hint}known are ascend (or npu), gpu (or cuda), cpu and simulated"
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
            f"the range {first}-{last} in {spec!r} names {last - first + 1} devices, more "
            f"than the {MAX_RANGE_DEVICES} of the longest range: write a shorter one"
        )
    return range(first, last + 1)


def parse_visible_ascend(value: str) -> list[int]:
    """Read the value of ``ASCEND_RT_VISIBLE_DEVICES``: logical ids, ascending, unique.

    CANN silently ignores everything from the first thing it cannot read (a space, an id out of
    order), so that half of the chips idle or a worker fails with 207004: refused here instead.

    Raises:
        DeviceSpecError: anything but ascending, unique ids with commas and without spaces.
    """
    ids = [int(number) for number in value.split(",")] if VISIBLE_IDS.fullmatch(value) else []
    if ids and ids == sorted(set(ids)):
        return ids
    raise DeviceSpecError(
        f"ASCEND_RT_VISIBLE_DEVICES is {value!r}, of which CANN would ignore a part: set it to "
        "ascending ids, each once, with commas and without spaces, such as '0,1', or unset it"
    )


@dataclass(frozen=True)
class FoundDevice:
    """One device of this machine; None where its source does not say.

    ``device.id`` is the number inside this process; ``card`` and ``chip``, npu-smi's "NPU ID" and
    "Chip ID", number nothing else. ``source`` says who told, ``note`` what to know about it.
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
    """What was found, what went wrong, and the types of which surely all devices are listed."""

    devices: list[FoundDevice] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    complete: frozenset[str] = frozenset()


def default_devices(discovery: Discovery) -> list[Device]:
    """The devices used where none are named: all Ascend devices, else all GPUs, else ``cpu:0``."""
    for kind in ("ascend", "gpu"):
        devices = [found.device for found in discovery.devices if found.device.type == kind]
        if devices:
            return devices
    return [Device("cpu", 0)]


def check_devices_exist(devices: Iterable[Device], discovery: Discovery) -> None:
    """Refuse a device that is surely absent; where little could be found out, refuse nothing.

    Raises:
        DeviceSpecError: discovery knows all devices of that type, and this is none of them.
    """
    for device in devices:
        known = [found.device for found in discovery.devices if found.device.type == device.type]
        if device.type in discovery.complete and device not in known:
            there = f"has only {', '.join(map(str, known))}" if known else f"shows no {device.type}"
            raise DeviceSpecError(
                f"there is no device {device} here: this process {there} "
                "(`ascend-parallel devices` shows what can be named)"
            )


def usable_cores(
    *,
    cgroup_root: Path = Path("/sys/fs/cgroup"),
    own_cgroups: Path = Path("/proc/self/cgroup"),
) -> int:
    """How many CPU cores this process may use: its affinity, limited by its cgroups' quotas.

    A quota of 1.5 cores counts as 2; the result is at least 1. Arguments are for tests.

    Source: ``cpu.max`` (cgroup v2) and ``cpu.cfs_quota_us`` (v1) of the kernel's cgroup documents.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quotas = (_quota_cores(folder) for folder in _cgroup_folders(cgroup_root, own_cgroups))
    return min([cores, *(math.ceil(quota) for quota in quotas if quota is not None)])


def _cgroup_folders(root: Path, own_cgroups: Path) -> Iterator[Path]:
    """The folders that can hold a CPU quota of this process: its cgroup's and all above it."""
    for line in _read(own_cgroups).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in {root / controllers, root / "cpu"} if controllers else {root, root / "unified"}:
            folder = mount / path.lstrip("/")
            # In a container the path is often the host's and absent here: the mount itself counts.
            yield from (above for above in (folder, *folder.parents) if above.is_relative_to(mount))


def _quota_cores(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = (_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return None
    return cores if cores > 0 else None  # cgroup v1 writes -1 for "no limit"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
