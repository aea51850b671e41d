"""Where the time goes, as shares: of a call's time, and of each device's. Pure functions of the records of calls."""

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
        calls: how many calls these are the shares of.
        call: phase (see ``runner/phases.py``) -> its share of the time of all calls together.
        devices: device -> {"compute": share of the time, "idle": the rest}; of several instances, the mean.
    """

    calls: int
    call: dict[str, float]
    devices: dict[str, dict[str, float]]


def break_down(calls: Sequence[CallRecord], instances: Mapping[str, int]) -> Breakdown | None:
    """Return where the time of calls went; None where none succeeded.

    Args:
        calls: their records, of a time in which nothing else ran.
        instances: device -> how many times it runs the model at once; those that were not used count as idle.
    """
    phases = list(find_phases(calls).values())
    if not phases:
        return None
    totals = {name: sum(getattr(of_call, name) for of_call in phases) for name in Phases._fields}
    whole = sum(totals.values())
    shares = {name.replace("_", " "): total / whole for name, total in totals.items()}
    return Breakdown(len(phases), shares, _device_shares(calls, instances))


def host_overhead_us(calls: Sequence[CallRecord]) -> float | None:
    """Return the median of what the host adds to a call, in microseconds; None where no call succeeded."""
    phases = find_phases(calls)
    return statistics.median(of_call.host for of_call in phases.values()) / 1000 if phases else None


def _device_shares(calls: Sequence[CallRecord], instances: Mapping[str, int]) -> dict[str, dict[str, float]]:
    window_ns = max(call.closed_ns for call in calls) - min(call.opened_ns for call in calls)
    busy_ns = dict.fromkeys(instances, 0)
    for (worker, _), tasks in tasks_by_lane(calls).items():
        busy_ns[worker.partition("#")[0]] += sum(task.finished_ns - task.started_ns for _, task in tasks)
    shares = {device: busy_ns[device] / (window_ns * count) for device, count in instances.items()}
    return {device: {"compute": share, "idle": 1 - share} for device, share in shares.items()}
