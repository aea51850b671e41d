"""What was measured: plain data, and as JSON."""

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
    """What is measured in one row.

    Attributes:
        devices: the first so many of those that were named.
        batch_size: rows of a call, over all devices.
        instances: times that each device runs the model at once.
        in_flight: calls at the same time.
    """

    devices: int
    batch_size: int
    instances: int
    in_flight: int

    def as_options(self) -> str:
        """Return the setting as options of the command."""
        return f"--batch-size {self.batch_size} --instances {self.instances} --in-flight {self.in_flight}"

    def in_words(self) -> str:
        """Return the setting in words: "2 devices, 8 rows a call, 1 instance, 4 calls in flight"."""
        devices, instances = _count(self.devices, "device"), _count(self.instances, "instance")
        rows, calls = _count(self.batch_size, "row"), _count(self.in_flight, "call")
        return f"{devices}, {rows} a call, {instances}, {calls} in flight"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass
class Row:
    """The figures of one setting; figures.py says what they are.

    Attributes:
        calls: how many were measured.
        duration_s: how long that took.
        spread: of the throughput, as a share of it.
        latency_ms: percentile -> milliseconds.
        efficiency: 1.0 where each device adds as much as the first alone; None without a row of one device.
        host_overhead_us: of a call, the median; None where measuring was interrupted.
        rows_per_s_of: device -> its share of ``rows_per_s``.
        restarts: workers that died and were replaced meanwhile: then the figures are not worth much.
        is_partial: measuring was interrupted.
        breakdown: where the time went; None where measuring was interrupted.
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


@dataclass
class Report:
    """The rows that were measured, and on what.

    Attributes:
        model: as it was given.
        engine: its name.
        devices: all that were named.
        rows: in the order of measuring.
        error: why there are not all rows; "" where there are.
    """

    model: str
    engine: str
    devices: list[str]
    rows: list[Row] = field(default_factory=list)
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain dicts and lists; percentiles are named as in ``"p99"``."""
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
    plain = dataclasses.asdict(row)
    plain["latency_ms"] = {f"p{percentile:g}": value for percentile, value in row.latency_ms.items()}
    return {**row.setting._asdict(), **{name: value for name, value in plain.items() if name != "setting"}}
