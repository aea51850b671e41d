"""Where the time goes, as shares of the calls' time and of each device's time. Pure functions of call records."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ascend_parallel.runner.phases import Phases, find_phases, tasks_by_lane
from ascend_parallel.runner.trace import CallRecord


@dataclass
class Breakdown:
    """Shares that add up to 1.

    Attributes:
        calls: the number of calls.
        call: phase (see ``runner/phases.py``) -> its share of the time of all calls together.
        devices: device -> {"compute": share of the time, "idle": the rest}; the mean over its instances.
    """

    calls: int
    call: dict[str, float]
    devices: dict[str, dict[str, float]]


def break_down(calls: Sequence[CallRecord], instances: Mapping[str, int]) -> Breakdown | None:
    """Return the breakdown of the time of calls; None if no call succeeded.

    Args:
        calls: the records of calls, from a period in which nothing else ran.
        instances: device -> how many times it runs the model at the same time; unused instances count as idle.
    """
    phases = list(find_phases(calls).values())
    if not phases:
        return None
    totals = {name: sum(getattr(call_phases, name) for call_phases in phases) for name in Phases._fields}
    total_ns = sum(totals.values())
    shares = {name.replace("_", " "): total / total_ns for name, total in totals.items()}
    return Breakdown(len(phases), shares, _device_shares(calls, instances) if instances else {})


def host_overhead_us(calls: Sequence[CallRecord]) -> float | None:
    """Return the median host overhead of a call, in microseconds; None if no call succeeded."""
    phases = find_phases(calls)
    return statistics.median(call_phases.host for call_phases in phases.values()) / 1000 if phases else None


def _device_shares(calls: Sequence[CallRecord], instances: Mapping[str, int]) -> dict[str, dict[str, float]]:
    window_ns = max(call.closed_ns for call in calls) - min(call.opened_ns for call in calls)
    busy_ns = dict.fromkeys(instances, 0)
    for (worker, _), tasks in tasks_by_lane(calls).items():
        busy_ns[worker.partition("#")[0]] += sum(task.finished_ns - task.started_ns for _, task in tasks)
    shares = {device: busy_ns[device] / (window_ns * count) for device, count in instances.items()}
    return {device: {"compute": share, "idle": 1 - share} for device, share in shares.items()}
