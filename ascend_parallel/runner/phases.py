"""Where the time of calls went, from their records. Pure functions.

The time of a call, from ``predict`` or ``submit`` to its result, falls into seven phases, one after the other. Where
it had several tasks, they are those of the task that was answered last, for which the call had to wait:

prepare
    inputs are checked, the call is planned, and shared memory is taken for it.
copy in
    inputs are copied to shared memory, until those of that task are there.
queueing
    the task waits while the worker that takes it computes other tasks.
dispatch
    the rest of the time until the worker begins: messages, and processes being woken.
compute
    the engine runs, and its outputs are written to shared memory.
reply
    the answer's message, and the caller being woken.
gather
    the outputs are put together.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .trace import CallRecord, TaskRecord


class Phases(NamedTuple):
    """The nanoseconds of each phase of one call; they add up to its latency."""

    prepare: int
    copy_in: int
    queueing: int
    dispatch: int
    compute: int
    reply: int
    gather: int

    @property
    def host(self) -> int:
        """What the host added: all but computing, and queueing for a device that computed other tasks."""
        return sum(self) - self.compute - self.queueing


def share_lanes(spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return a lane for each span of time (start, end), the lowest that is free, so that none overlap in a lane."""
    lanes = [0] * len(spans)
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    used = 0
    for index in sorted(range(len(spans)), key=spans.__getitem__):
        start, end = spans[index]
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, used = used, used + 1
        lanes[index] = lane
        heapq.heappush(busy, (end, lane))
    return lanes


def tasks_by_lane(calls: Iterable[CallRecord]) -> dict[tuple[str, int], list[tuple[CallRecord, TaskRecord]]]:
    """Return what each instance of each worker did, in order: (worker's label, instance) -> tasks and their calls.

    Workers do not tell which of their threads ran a task; which is taken for which makes no difference to times.
    """
    of_workers: dict[str, list[tuple[CallRecord, TaskRecord]]] = {}
    for call in calls:
        for task in call.tasks:
            of_workers.setdefault(task.worker, []).append((call, task))
    lanes: dict[tuple[str, int], list[tuple[CallRecord, TaskRecord]]] = {}
    for worker, tasks in sorted(of_workers.items()):
        tasks.sort(key=lambda both: both[1].started_ns)
        numbers = share_lanes([(task.started_ns, task.finished_ns) for _, task in tasks])
        for lane, both in zip(numbers, tasks, strict=True):
            lanes.setdefault((worker, lane), []).append(both)
    return lanes


def find_phases(calls: Sequence[CallRecord]) -> dict[int, Phases]:
    """Return the phases of each call by its number; calls that failed have none."""
    queueing_ns = {}
    for tasks in tasks_by_lane(calls).values():
        records = [task for _, task in tasks]
        for place, (call, task) in enumerate(tasks):
            if task is call.tasks[-1]:
                queueing_ns[call.number] = _busy_ns(records, place, task.written_ns)
    return {call.number: _phases_of(call, queueing_ns[call.number]) for call in calls if call.tasks and not call.error}


def _busy_ns(tasks: Sequence[TaskRecord], place: int, since_ns: int) -> int:
    """Return for how long a lane computed since a moment, of the tasks before the one at a place."""
    busy_ns = 0
    while place and tasks[place - 1].finished_ns > since_ns:
        place -= 1
        busy_ns += tasks[place].finished_ns - max(tasks[place].started_ns, since_ns)
    return busy_ns


def _phases_of(call: CallRecord, queueing_ns: int) -> Phases:
    last = call.tasks[-1]
    return Phases(
        prepare=call.begun_ns - call.opened_ns,
        copy_in=last.written_ns - call.begun_ns,
        queueing=queueing_ns,
        dispatch=last.started_ns - last.written_ns - queueing_ns,
        compute=last.finished_ns - last.started_ns,
        reply=call.gather_ns - last.finished_ns,
        gather=call.closed_ns - call.gather_ns,
    )
