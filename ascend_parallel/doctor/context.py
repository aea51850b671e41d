"""What all layers of one examination share: the machine, the devices asked for, and the engines that are there."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from ascend_parallel.checks import find_python
from ascend_parallel.devices import Device, Discovery, check_devices_exist, default_devices, parse_devices
from ascend_parallel.devices.discovery import discover
from ascend_parallel.engine_list import EngineInfo, list_engines
from ascend_parallel.errors import DeviceSpecError

from .host import Host

#: An import takes a second; from a cold network disk, many.
IMPORT_TIMEOUT_S = 30.0


@dataclass
class Context:
    """One examination.

    Attributes:
        host: the machine.
        spec: the devices as the user named them; None: the default ones.
        worker_python: the workers' interpreter; None: this one.
        timeout_s: how long one step, such as the build of a model, may take.
    """

    host: Host
    spec: str | None = None
    worker_python: Path | None = None
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        """Check the arguments; raises UsageError."""
        self.asked = None if self.spec is None else parse_devices(self.spec)
        self.python = find_python(self.worker_python)

    @property
    def look_timeout_s(self) -> float:
        """How long an interpreter may take to import a module."""
        return min(self.timeout_s, IMPORT_TIMEOUT_S)

    @functools.cached_property
    def discovery(self) -> Discovery:
        """The devices that were found; what cannot be read is in its warnings."""
        try:
            return discover(self.host.run, self.host.environ, self.host.path("/dev"))
        except DeviceSpecError as error:
            return Discovery([], [str(error)])

    @property
    def devices(self) -> list[Device]:
        """The devices asked for."""
        return default_devices(self.discovery) if self.asked is None else self.asked

    def why_missing(self, device: Device) -> str:
        """Return why a device is known not to be here; "" if it may be."""
        try:
            check_devices_exist([device], self.discovery)
        except DeviceSpecError as error:
            return str(error)
        return ""

    def asks_for(self, kind: str) -> bool:
        """Whether devices of a type are asked for: GPUs by ``tensorrt:0``, too."""
        return any(device.hardware.type == kind for device in self.devices)

    @property
    def has_ascend(self) -> bool:
        """Whether Ascend devices are asked for or, where none are named, anything here has to do with Ascend."""
        if self.asked is not None or self.asks_for("ascend"):
            return self.asks_for("ascend")
        traces = ("/usr/local/Ascend", "/dev/davinci_manager")
        is_set = "ASCEND_HOME_PATH" in self.host.environ
        return is_set or self.host.has_tool("npu-smi") or any(map(self.host.exists, traces))

    @property
    def has_gpu(self) -> bool:
        """The same for GPUs."""
        if self.asked is not None or self.asks_for("gpu"):
            return self.asks_for("gpu")
        return self.host.has_tool("nvidia-smi")

    @property
    def undiscovered(self) -> str:
        """What suggests a card, where no devices are named and no card was found; "" if nothing does."""
        if self.asked is not None or not self.asks_for("cpu"):
            return ""
        tools = [tool for tool in ("npu-smi", "nvidia-smi") if self.host.has_tool(tool)]
        files = [path for path in ("/dev/davinci_manager", "/dev/nvidiactl") if self.host.exists(path)]
        return next(iter([*files, *tools]), "")

    @functools.cached_property
    def engines(self) -> list[EngineInfo]:
        """The engines, and whether their runtimes can be imported; each import is bounded in time."""
        return list_engines((), self.worker_python, self.look_timeout_s)
