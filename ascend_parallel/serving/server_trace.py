"""When what happened to each request: the setting ``trace``, a file for Perfetto, written when the server ends.

The latest requests are kept, so that a server that runs for months fills no memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ascend_parallel.runner.phases import share_lanes
from ascend_parallel.runner.trace_file import Event, name_line, write_events

from .failure_log import make_request_id
from .log import logger
from .observed_batcher import ObservedCall, TaskTimes
from .request import InferRequest

#: Requests, and batches, that are kept; one takes about 300 bytes here, and 0.5 KB in the file.
MAX_KEPT = 100_000


class RequestRecord(NamedTuple):
    """One request that was answered; times are in ns of one clock, and 0 where it did not come so far."""

    model: str
    id: str
    arrived_ns: int
    started_ns: int
    finished_ns: int
    done_ns: int
    rows: int
    batch: int
    error: str


class BatchRecord(NamedTuple):
    """One batch that is over."""

    model: str
    number: int
    requests: int
    tasks: tuple[TaskTimes, ...]


class ServerTrace:
    """The latest requests and batches of a server."""

    def __init__(self, path: Path, max_kept: int = MAX_KEPT) -> None:
        """Take the file that is written in the end."""
        self._path = path
        self._requests: deque[RequestRecord] = deque(maxlen=max_kept)
        self._batches: deque[BatchRecord] = deque(maxlen=max_kept)
        self._count = 0

    def begin_request(self, model: str, version: str, request: InferRequest) -> None:
        """Give a pipeline's request an id, by which those of its ops are found."""
        request.id = request.id or make_request_id()

    def note_request(self, model: str, version: str, request: InferRequest, call: ObservedCall | None) -> None:
        """Take a request that was answered."""
        started_ns, finished_ns = compute_span(call.tasks if call is not None else ())
        self._count += 1
        self._requests.append(
            RequestRecord(
                f"{model} version {version}",
                request.id,
                round(request.arrived_s * 1e9),
                started_ns,
                finished_ns,
                round(request.done_s * 1e9),
                request.rows,
                call.number if call is not None else 0,
                "" if request.error is None else type(request.error).__name__,
            )
        )

    def note_batch(self, model: str, version: str, call: ObservedCall) -> None:
        """Take a batch that is over."""
        name = f"{model} version {version}"
        self._batches.append(BatchRecord(name, call.number, len(call.requests), tuple(call.tasks)))

    def close(self) -> None:
        """Write the file; raises DiskError."""
        dropped = self._count - len(self._requests)
        write_events(self._path, self._events(), {"dropped_requests": dropped})
        logger.info("wrote %d requests to %s: open it at ui.perfetto.dev", len(self._requests), self._path)

    def _events(self) -> Iterator[Event]:
        starts = [request.arrived_ns for request in self._requests]
        starts += [task.started_ns for batch in self._batches for task in batch.tasks]
        origin_ns = min(starts, default=0)
        models = dict.fromkeys([request.model for request in self._requests])
        models |= dict.fromkeys([batch.model for batch in self._batches])
        for place, model in enumerate(models):
            requests = [request for request in self._requests if request.model == model]
            batches = [batch for batch in self._batches if batch.model == model]
            yield from _request_events(requests, model, 2 * place + 1, origin_ns)
            yield from _batch_events(batches, model, 2 * place + 2, origin_ns)


def compute_span(tasks: Sequence[TaskTimes]) -> tuple[int, int]:
    """Return when the first engine began and the last one ended; zeros where none did."""
    if not tasks:
        return 0, 0
    return min(task.started_ns for task in tasks), max(task.finished_ns for task in tasks)


def _request_events(requests: list[RequestRecord], model: str, pid: int, origin_ns: int) -> Iterator[Event]:
    """Yield the requests, one line for each that is there at a time, and below each its phases."""
    yield name_line("process_name", pid, 0, f"{model}: requests")
    lanes = share_lanes([(request.arrived_ns, request.done_ns) for request in requests])
    for lane in range(max(lanes, default=-1) + 1):
        yield name_line("thread_name", pid, lane + 1, f"request {lane + 1} at a time")
    for request, lane in zip(requests, lanes, strict=True):
        times = (request.arrived_ns, request.started_ns, request.finished_ns, request.done_ns)
        arrived_ns, started_ns, finished_ns, done_ns = times
        args = {"id": request.id, "rows": request.rows, "batch": request.batch, "error": request.error}
        name = f"request {request.id}".rstrip()
        yield _span(name, "request", (pid, lane + 1), (arrived_ns, done_ns), origin_ns, args)
        if started_ns:
            yield _span("queue", "phase", (pid, lane + 1), (arrived_ns, started_ns), origin_ns, {})
            yield _span("compute", "phase", (pid, lane + 1), (started_ns, finished_ns), origin_ns, {})
            yield _span("answer", "phase", (pid, lane + 1), (finished_ns, done_ns), origin_ns, {})


def _batch_events(batches: list[BatchRecord], model: str, pid: int, origin_ns: int) -> Iterator[Event]:
    """Yield what the workers computed, one line for each that a worker did at a time."""
    yield name_line("process_name", pid, 0, f"{model}: devices")
    of_workers: dict[str, list[tuple[BatchRecord, TaskTimes]]] = {}
    for batch in batches:
        for task in batch.tasks:
            of_workers.setdefault(task.worker, []).append((batch, task))
    line = 0
    for worker, tasks in sorted(of_workers.items()):
        lanes = share_lanes([(task.started_ns, task.finished_ns) for _, task in tasks])
        for lane in range(max(lanes) + 1):
            yield name_line(
                "thread_name", pid, line + lane + 1, worker if not max(lanes) else f"{worker} instance {lane}"
            )
        for (batch, task), lane in zip(tasks, lanes, strict=True):
            args = {"batch": batch.number, "rows": task.rows, "requests": batch.requests}
            at = (pid, line + lane + 1)
            yield _span(f"batch {batch.number}", "compute", at, (task.started_ns, task.finished_ns), origin_ns, args)
        line += max(lanes) + 1


def _span(
    name: str, kind: str, at: tuple[int, int], times_ns: tuple[int, int], origin_ns: int, args: dict[str, Any]
) -> Event:
    start_ns, end_ns = times_ns
    where = {"pid": at[0], "tid": at[1], "ts": (start_ns - origin_ns) / 1e3, "dur": max(0, end_ns - start_ns) / 1e3}
    return {"name": name, "cat": kind, "ph": "X", **where, "args": args}
