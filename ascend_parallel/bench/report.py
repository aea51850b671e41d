"""The results: plain data, and as JSON."""

from __future__ import annotations

import dataclasses
import os
import platform
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ascend_parallel import __version__

from .breakdown import Breakdown


class Setting(NamedTuple):
    """The setting of one row.

    Attributes:
        devices: the number of devices: the first ones of the report's list.
        batch_size: rows per call, over all devices.
        instances: how many times each device runs the model at the same time.
        in_flight: calls in flight.
    """

    devices: int
    batch_size: int
    instances: int
    in_flight: int

    def as_options(self) -> str:
        """Return the setting as command line options."""
        return f"--batch-size {self.batch_size} --instances {self.instances} --in-flight {self.in_flight}"

    def in_words(self) -> str:
        """Return the setting as text: "2 devices, 8 rows per call, 1 instance, 4 calls in flight"."""
        devices, instances = _count(self.devices, "device"), _count(self.instances, "instance")
        rows, calls = _count(self.batch_size, "row"), _count(self.in_flight, "call")
        return f"{devices}, {rows} per call, {instances}, {calls} in flight"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass
class Row:
    """The figures of one setting; figures.py defines them.

    Attributes:
        calls: the number of measured calls.
        duration_s: the duration of the measurement.
        spread: the spread of the throughput, relative to it.
        latency_ms: percentile -> milliseconds.
        efficiency: 1.0 if each device adds as much as the first one alone; None without a row for one device.
        host_overhead_us: the median host overhead of a call; None if the measurement was interrupted.
        rows_per_s_of: device -> its part of ``rows_per_s``.
        restarts: workers that died and were restarted during the measurement, which makes the figures unreliable.
        is_partial: whether the measurement was interrupted.
        breakdown: where the time goes; None if the measurement was interrupted.
    """

    setting: Setting
    calls: int
    duration_s: float
    rows_per_s: float
    calls_per_s: float
    spread: float
    latency_ms: dict[float, float]
    efficiency: float | None = None
    host_overhead_us: float | None = None
    rows_per_s_of: dict[str, float] = field(default_factory=dict)
    restarts: int = 0
    is_partial: bool = False
    breakdown: Breakdown | None = None

    def rows_per_s_of_hosts(self) -> dict[str, float]:
        """Return host -> its part of ``rows_per_s``; empty if the devices are those of one machine."""
        hosts: dict[str, float] = {}
        for device, rows_per_s in self.rows_per_s_of.items():
            host, slash, _ = device.rpartition("/")
            if slash:
                hosts[host] = hosts.get(host, 0.0) + rows_per_s
        return hosts


@dataclass
class Report:
    """The measured rows, the model and the devices.

    Attributes:
        model: the model, as it was given.
        engine: the engine's name.
        devices: all devices.
        rows: the rows, in the order of the measurement.
        error: why rows are missing; "" if they are complete.
    """

    model: str
    engine: str
    devices: list[str]
    rows: list[Row] = field(default_factory=list)
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain dicts and lists; percentiles have names such as ``"p99"``."""
        return {
            "ascend_parallel": __version__,
            "model": self.model,
            "engine": self.engine,
            "devices": self.devices,
            "machine": {
                "cores": len(os.sched_getaffinity(0)),
                "python": platform.python_version(),
                "numpy": np.__version__,
                "system": platform.platform(),
            },
            "error": self.error,
            "rows": [_row_to_json(row) for row in self.rows],
        }


def _row_to_json(row: Row) -> dict[str, Any]:
    fields = dataclasses.asdict(row)
    fields["latency_ms"] = {f"p{percentile:g}": value for percentile, value in row.latency_ms.items()}
    if row.rows_per_s_of_hosts():
        fields["rows_per_s_of_hosts"] = row.rows_per_s_of_hosts()
    return {**row.setting._asdict(), **{name: value for name, value in fields.items() if name != "setting"}}
