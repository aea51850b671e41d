"""Records of calls as a file in Chrome's trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

Calls lie on one line for each that is in flight at a time, with their phases (see phases.py) below them; what devices
compute, on one line for each instance of a device. Arrows lead from a call to its tasks and back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ascend_parallel.files import write_whole

from .phases import Phases, find_phases, share_lanes, tasks_by_lane
from .trace import CallRecord

Event = dict[str, Any]
#: How many events are put into words at a time.
_BATCH = 1000


class TraceSection(NamedTuple):
    """Calls that are shown together, under one title.

    Attributes:
        title: such as the model's file.
        calls: their records.
        dropped: how many before them are not there any more.
    """

    title: str
    calls: Sequence[CallRecord]
    dropped: int = 0


def write_trace(path: Path, sections: Sequence[TraceSection]) -> None:
    """Write a trace file; raises DiskError where it could not be written."""
    opened = [call.opened_ns for section in sections for call in section.calls]
    origin_ns = min(opened, default=0)
    about = {"dropped_calls": sum(section.dropped for section in sections)}
    write_events(path, _events(sections, origin_ns), about)


def write_events(path: Path, events: Iterator[Event], about: Mapping[str, Any]) -> None:
    """Write events as a trace file, with what is to be told about them; raises DiskError."""
    write_whole(path, lambda file: _write(file, events, about))


def _write(file: IO[bytes], events: Iterator[Event], about: Any) -> None:
    file.write(b'{"displayTimeUnit": "ms", "otherData": %s, "traceEvents": [' % json.dumps(about).encode())
    separator = "\n"
    lines: list[str] = []
    for event in events:
        lines.append(separator + json.dumps(event))
        separator = ",\n"
        if len(lines) == _BATCH:
            file.write("".join(lines).encode())
            lines.clear()
    file.write("".join(lines).encode() + b"\n]}\n")


def _events(sections: Sequence[TraceSection], origin_ns: int) -> Iterator[Event]:
    for place, section in enumerate(sections):
        writer = _SectionWriter(section, 2 * place + 1, origin_ns)
        yield from writer.names()
        yield from writer.calls()
        yield from writer.tasks()


class _SectionWriter:
    """One section: two "processes" of the format, its calls and its devices, of lines called "threads"."""

    def __init__(self, section: TraceSection, number: int, origin_ns: int) -> None:
        self._section = section
        self._pid = number
        self._origin_ns = origin_ns
        self._phases = find_phases(section.calls)
        self._lanes = share_lanes([(call.opened_ns, call.closed_ns) for call in section.calls])
        self._workers = tasks_by_lane(section.calls)

    def names(self) -> Iterator[Event]:
        """Yield what names the lines."""
        title = self._section.title
        note = f", after {self._section.dropped} earlier ones that are not kept" if self._section.dropped else ""
        yield name_line("process_name", self._pid, 0, f"{title}: calls{note}")
        yield name_line("process_name", self._pid + 1, 0, f"{title}: devices")
        for lane in range(max(self._lanes, default=-1) + 1):
            yield name_line("thread_name", self._pid, lane + 1, f"caller, call {lane + 1} in flight")
        for line, (worker, lane) in enumerate(self._workers, 1):
            has_more = (worker, 1) in self._workers
            yield name_line("thread_name", self._pid + 1, line, f"{worker} instance {lane}" if has_more else worker)

    def calls(self) -> Iterator[Event]:
        """Yield the calls, and below each its phases."""
        for call, lane in zip(self._section.calls, self._lanes, strict=True):
            args = {"call": call.number, "model": call.model, "tasks": len(call.tasks), "error": call.error}
            yield self._span(f"call {call.number}", "call", self._pid, lane + 1, call.opened_ns, call.closed_ns, args)
            at_ns = call.opened_ns
            phases = self._phases.get(call.number)
            for name, duration_ns in _named(phases):
                if duration_ns:
                    yield self._span(name, "phase", self._pid, lane + 1, at_ns, at_ns + duration_ns, {})
                at_ns += duration_ns
            for task in call.tasks:
                number = _flow_number(call, task.start)
                yield self._arrow("s", self._pid, lane + 1, task.written_ns, number)
                yield self._arrow("f", self._pid, lane + 1, call.gather_ns, number)

    def tasks(self) -> Iterator[Event]:
        """Yield what each instance of each device computed."""
        for line, tasks in enumerate(self._workers.values(), 1):
            for call, task in tasks:
                args = {
                    "call": call.number,
                    "model": call.model,
                    "rows": [task.start, task.start + task.rows],
                    "waited_us": (task.started_ns - task.written_ns) / 1000,
                    "workers_lost": task.failures,
                }
                span = (self._pid + 1, line, task.started_ns, task.finished_ns)
                yield self._span(f"call {call.number}", "compute", *span, args)
                yield self._arrow("t", self._pid + 1, line, task.started_ns, _flow_number(call, task.start))

    def _span(self, name: str, kind: str, pid: int, tid: int, start_ns: int, end_ns: int, args: Any) -> Event:
        at = {"pid": pid, "tid": tid, "ts": self._us(start_ns), "dur": (end_ns - start_ns) / 1000}
        return {"name": name, "cat": kind, "ph": "X", **at, "args": args}

    def _arrow(self, step: str, pid: int, tid: int, at_ns: int, number: str) -> Event:
        at = {"pid": pid, "tid": tid, "ts": self._us(at_ns)}
        return {"name": "task", "cat": "task", "ph": step, "bp": "e", "id": f"{self._pid}/{number}", **at}

    def _us(self, at_ns: int) -> float:
        return (at_ns - self._origin_ns) / 1000


def _named(phases: Phases | None) -> Iterator[tuple[str, int]]:
    for name, duration_ns in phases._asdict().items() if phases is not None else ():
        yield name.replace("_", " "), duration_ns


def _flow_number(call: CallRecord, start: int) -> str:
    return f"{call.number}/{start}"


def name_line(kind: str, pid: int, tid: int, name: str) -> Event:
    """Return the event that names a line ("thread_name") or a group of lines ("process_name")."""
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
