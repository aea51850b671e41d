"""Environment: variables that choose devices and threads, and where the cards are attached."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ascend_parallel.backends.worker_environment import THREAD_VARIABLES
from ascend_parallel.devices import FoundDevice, parse_visible_ascend, usable_cores
from ascend_parallel.errors import DeviceSpecError

from .context import Context
from .finding import Finding, failure, ok, warning

TITLE = "Environment"


def check(context: Context) -> Iterator[Finding]:
    """Yield the findings of this layer."""
    yield from check_visible(context)
    yield check_threads(context)
    for found in context.discovery.devices:
        if found.bus_id and found.device in context.devices:
            yield check_numa(context, found)


def check_visible(context: Context) -> Iterator[Finding]:
    """Check the variables that hide devices from this process."""
    value = context.host.environ.get("ASCEND_RT_VISIBLE_DEVICES", "")
    if value:
        try:
            ids = parse_visible_ascend(value)
        except DeviceSpecError:
            advice = "set it to ascending ids, each once, with commas and without spaces, such as 0,1"
            yield failure("ASCEND_RT_VISIBLE_DEVICES", f"CANN ignores a part of {value!r}", advice)
        else:
            yield ok("ASCEND_RT_VISIBLE_DEVICES", f"{value}: ascend:0 is chip {ids[0]}")
    gpus = context.host.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus is not None and context.asks_for("gpu"):
        if gpus.strip() in ("", "-1"):
            yield failure("CUDA_VISIBLE_DEVICES", f"{gpus!r} hides all GPUs", "unset it")
        else:
            yield ok("CUDA_VISIBLE_DEVICES", gpus)


def check_threads(context: Context) -> Finding:
    """Check that the variables for threads do not make the workers use more threads than there are cores."""
    cores, workers = usable_cores(), len(context.devices)
    values = {name: context.host.environ[name] for name in THREAD_VARIABLES if context.host.environ.get(name)}
    shown = ", ".join(f"{name}={value}" for name, value in values.items())
    many = [name for name, value in values.items() if value.isdecimal() and int(value) * workers > max(cores, workers)]
    if many:
        seen = f"{shown}: {workers} workers on {cores} cores"
        return warning("threads", seen, f"unset {many[0]}: each worker then gets its share of the cores")
    return ok("threads", shown or f"each worker gets its share of {cores} cores")


def check_numa(context: Context, found: FoundDevice) -> Finding:
    """Tell which NUMA node a card is attached to, and whether this process runs on its cores."""
    name = f"{found.device}, NUMA"
    node = context.host.read(f"/sys/bus/pci/devices/{(found.bus_id or '').lower()}/numa_node")
    if not node.isdecimal():
        return ok(name, "the system does not tell its node")
    cores = read_cores(context.host.read(f"/sys/devices/system/node/node{node}/cpulist"))
    mine = os.sched_getaffinity(0)
    if cores and not cores & mine:
        advice = f"run with numactl --cpunodebind={node}: copies to the card then stay on its node"
        return warning(name, f"it is on node {node}, and this process may use no core of it", advice, node=int(node))
    return ok(name, f"node {node}", node=int(node))


def read_cores(text: str) -> set[int]:
    """Parse a list of cores such as ``0-3,8``."""
    cores: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores
