"""Sends files through a pipeline of ops: each file is one request.

The ops have worker processes of their own. This process reads the files and saves the results, in a few threads. It
keeps as many files in the pipeline as it takes to have all workers busy, but no more bytes than a limit. What happens
comes to one thread, as *events*: functions that it calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from ascend_parallel.backends.last_lines import in_one_line
from ascend_parallel.errors import (
    AscendParallelError,
    DiskError,
    RefusedError,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
)
from ascend_parallel.waiting import get_next
from ascend_parallel.worker.pipelines.batches import failure_reason, make_writer
from ascend_parallel.worker.pipelines.saving import SaveError
from ascend_parallel.worker.pipelines.writers import Writer

from .files import File
from .mapper import MAX_DEATHS_IN_A_ROW, BundleResult
from .ops_runner import OpsRunner
from .outcome import Outcome

__all__ = ["OpsMapper"]

#: Files that are read, and results that are saved, at the same time: enough to hide the latency of a network's disk.
_THREADS = 8
#: The inputs in the pipeline take so many bytes at most, beside those of one file for each worker.
_MAX_BYTES = 256 << 20


class OpsMapper:
    """Runs files through a pipeline of ops."""

    def __init__(
        self, runner: OpsRunner, files: Sequence[File], *, writer_options: dict[str, Any], max_ahead: int | None
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            runner: a built one.
            files: the files to process, with unique names.
            writer_options: what writers are made with: ``keep``, and with "files" ``output_dir``.
            max_ahead: how many files may be started beyond the first unfinished file; None: no limit.
        """
        self._runner = runner
        self._files = files
        self._writer_options = writer_options
        self._returns_values = writer_options["keep"] == "values"
        self._max_ahead = len(files) if max_ahead is None else max_ahead
        self._device = "+".join(runner.devices)
        self._next = 0
        self._in_flight: dict[int, int] = {}  # position -> bytes of its inputs, as far as they are known
        self._bytes = 0
        self._futures: dict[int, Future[Any]] = {}
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._done = BundleResult([])
        self._lines: list[bytes] = []
        self._deaths_in_a_row = 0
        self._disk_error: DiskError | None = None
        self._of_thread = threading.local()

    def run(self) -> Iterator[BundleResult]:
        """Yield the results of the files in the order of completion.

        Raises:
            DiskError: if the output folder accepts no more files.
            WorkerError: if an op has no worker left, or nothing but deaths come of the files.
        """
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ascend-parallel map")
        try:
            self._fill()
            while self._in_flight:
                self._handle_events()
                self._fill()  # before the yield, so that no worker waits for the caller
                if self._done.outcomes:
                    done, self._done = self._done._replace(lines=b"".join(self._lines)), BundleResult([])
                    self._lines.clear()
                    yield done
        finally:
            for future in list(self._futures.values()):
                future.cancel()
            self._threads.shutdown(cancel_futures=True)
        if self._disk_error is not None:
            raise self._disk_error

    def _handle_events(self) -> None:
        """Wait for an event; handle it and those that have come by now."""
        get_next(self._events)()
        while True:
            try:
                event = self._events.get_nowait()
            except Empty:
                return
            event()

    # ---- sending

    def _fill(self) -> None:
        while self._disk_error is None and self._next < len(self._files) and self._has_room():
            position, self._next = self._next, self._next + 1
            self._in_flight[position] = 0
            self._threads.submit(self._begin, position, time.perf_counter())

    def _has_room(self) -> bool:
        count = len(self._in_flight)
        if count >= self._runner.max_in_flight or (count >= self._runner.workers and self._bytes >= _MAX_BYTES):
            return False
        return not count or self._next - next(iter(self._in_flight)) < self._max_ahead

    def _begin(self, position: int, started_s: float) -> None:
        """Read a file and begin its request; runs in a thread."""
        path = self._files[position].path
        try:
            inputs = self._runner.read(path)
        except Exception as error:
            reason = f"it could not be read: {failure_reason(error)}"
            self._events.put(partial(self._fail, position, started_s, reason))
            return
        future = self._runner.pipeline.submit(inputs)
        self._events.put(partial(self._note_sent, position, future, count_bytes(inputs)))
        del inputs
        future.add_done_callback(lambda future: self._events.put(partial(self._take, position, started_s, future)))

    def _note_sent(self, position: int, future: Future[Any], size_bytes: int) -> None:
        self._in_flight[position] = size_bytes
        self._futures[position] = future
        self._bytes += size_bytes

    # ---- receiving

    def _take(self, position: int, started_s: float, future: Future[Any]) -> None:
        """Have the result of a request saved, or note why there is none."""
        del self._futures[position]
        error = future.exception()
        if error is None:
            self._deaths_in_a_row = 0
            self._threads.submit(self._save, position, started_s, future.result())
            return
        if isinstance(error, WorkerError):
            self._check_workers(error)
        self._fail(position, started_s, reason_of(error))

    def _check_workers(self, error: WorkerError) -> None:
        """Raise if the files are not the cause: an op has no worker left, or all of them die again and again."""
        self._runner.pipeline.stats()
        is_death = isinstance(error, WorkerDied | WorkerTimeout)
        self._deaths_in_a_row = self._deaths_in_a_row + 1 if is_death else 0
        if self._deaths_in_a_row >= MAX_DEATHS_IN_A_ROW:
            raise WorkerDied(
                f"the last {self._deaths_in_a_row} files ended their workers, and none went well: the cause is more "
                f"likely an op or its devices; the last error: {error}",
                device=error.device,
            )

    def _save(self, position: int, started_s: float, outputs: dict[str, Any]) -> None:
        """Save the result of a file; runs in a thread."""
        try:
            result = self._runner.finish(outputs)
            kept = self._keep(self._files[position].name, result)
        except SaveError as error:
            self._events.put(partial(self._note_disk_error, position, str(error)))
        except Exception as error:
            self._events.put(partial(self._fail, position, started_s, failure_reason(error)))
        else:
            self._events.put(partial(self._finish, position, started_s, *kept))

    def _keep(self, name: str, result: Any) -> tuple[Sequence[str], tuple[Any, ...], bytes]:
        """Return the outputs, the results and the lines of a file."""
        if self._returns_values:
            return (), (result,), b""
        writer: Writer | None = getattr(self._of_thread, "writer", None)
        if writer is None:
            writer = self._of_thread.writer = make_writer(self._writer_options)
        (outputs,) = writer.write([name], [(0, None, result)])
        return outputs or (), (), writer.take()[0]

    def _finish(
        self, position: int, started_s: float, outputs: Sequence[str], results: tuple[Any, ...], lines: bytes
    ) -> None:
        self._lines.append(lines)
        self._end(position, started_s, ok=True, outputs=tuple(outputs), results=results)

    def _fail(self, position: int, started_s: float, reason: str) -> None:
        self._end(position, started_s, ok=False, error=reason)

    def _end(self, position: int, started_s: float, **more: Any) -> None:
        self._bytes -= self._in_flight.pop(position)
        path, name = self._files[position]
        seconds = round(time.perf_counter() - started_s, 6)
        self._done.outcomes.append(Outcome(name, path, seconds=seconds, device=self._device, **more))

    def _note_disk_error(self, position: int, text: str) -> None:
        self._bytes -= self._in_flight.pop(position)
        self._disk_error = DiskError(f"{text}; correct that, and repeat the command with --resume")


def reason_of(error: BaseException) -> str:
    """Return why a request failed, in one line."""
    if isinstance(error, RefusedError):
        return f"refused: {error} (code {error.code})"
    if isinstance(error, AscendParallelError):
        return in_one_line(error)
    return f"{type(error).__name__}: {error}"


def count_bytes(inputs: Mapping[str, Any]) -> int:
    """Return about how many bytes the inputs of a request take."""
    return sum(
        value.nbytes if isinstance(value, np.ndarray) else len(value)
        for value in inputs.values()
        if isinstance(value, np.ndarray | bytes | str)
    )
