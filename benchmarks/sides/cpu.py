"""The CPU time of a process and all that it started, from /proc."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")

#: Thread -> nanoseconds that it ran.
Times = dict[str, int]


def read_times(pid: int) -> Times:
    """Return the times of all threads of a process, of its children, of theirs, and so on.

    Source of the format: the kernel's Documentation/scheduler/sched-stats.rst; the first number is time on a CPU.
    """
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            children.setdefault(find_parent(entry), []).append(int(entry.name))
    times: Times = {}
    waiting = [pid]
    while waiting:
        found = waiting.pop()
        waiting += children.get(found, [])
        times.update(read_threads(PROC / str(found)))
    return times


def find_parent(process: Path) -> int:
    """Return the id of a process's parent; 0 where the process has just ended."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def read_threads(process: Path) -> Times:
    """Return the times of a process's threads; none where it has just ended."""
    times: Times = {}
    try:
        for thread in (process / "task").iterdir():
            times[thread.name] = int((thread / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return times


def spent_ms(before: Times, after: Times) -> float:
    """Return the milliseconds that all threads ran between two readings."""
    return sum(ns - before.get(thread, 0) for thread, ns in after.items()) / 1e6
