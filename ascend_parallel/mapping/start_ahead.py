"""Starts the workers of a run while its files are still being listed. It imports no numpy."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from ascend_parallel.backends.processes.start import StartedAhead
from ascend_parallel.backends.worker_environment import environment, threads_of_each
from ascend_parallel.checks import find_python
from ascend_parallel.devices import Device, parse_devices
from ascend_parallel.devices.vendor_tools import VENDOR_TOOLS

from .settings import MapSettings, is_of_ops

__all__ = ["start_ahead"]


def start_ahead(settings: MapSettings) -> StartedAhead:
    """Start the processes of a run's workers; they wait for their pipeline.

    Nothing is started where the workers are not known yet: the devices have to be asked for, or the engine decides
    whether instances are processes.

    Raises:
        UsageError: the devices or the interpreter are wrong.
    """
    if settings.cluster is not None or is_of_ops(settings.pipeline):  # on other hosts; of the ops
        return StartedAhead(sys.executable, {}, [])
    python = find_python(settings.worker_python)
    devices = parse_devices(settings.devices) if settings.devices is not None else _sure_default()
    is_known = settings.workers == "processes" and settings.instances_per_device == 1
    labels = [str(device) for device in devices] if is_known else []
    return StartedAhead(python, environment(threads_of_each(len(labels) or 1)), labels)


def _sure_default() -> list[Device]:
    """Return ``cpu:0`` where there is neither a tool nor a device file to look for other devices with."""
    tools = ["npu-smi", "nvidia-smi", *(command[0] for tool in VENDOR_TOOLS.values() for command in tool.commands)]
    if any(map(shutil.which, tools)) or any(Path("/dev").glob("davinci*")):
        return []
    return [Device("cpu", 0)]
