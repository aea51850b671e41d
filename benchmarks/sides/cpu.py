"""The CPU time of a process and all its descendants, from /proc."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")

#: Thread id -> nanoseconds on a CPU.
Times = dict[str, int]


def read_times(pid: int) -> Times:
    """Return the times of all threads of a process and its descendants.

    Source of the format: the kernel's Documentation/scheduler/sched-stats.rst; the first number is the time on a CPU.
    """
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            children.setdefault(find_parent(entry), []).append(int(entry.name))
    times: Times = {}
    waiting = [pid]
    while waiting:
        process_id = waiting.pop()
        waiting += children.get(process_id, [])
        times.update(read_threads(PROC / str(process_id)))
    return times


def find_parent(process: Path) -> int:
    """Return the id of a process's parent; 0 if the process has ended."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def read_threads(process: Path) -> Times:
    """Return the times of a process's threads; {} if the process has ended."""
    times: Times = {}
    try:
        for thread in (process / "task").iterdir():
            times[thread.name] = int((thread / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return times


def spent_ms(before: Times, after: Times) -> float:
    """Return the milliseconds that all threads ran between two measurements."""
    return sum(ns - before.get(thread, 0) for thread, ns in after.items()) / 1e6
