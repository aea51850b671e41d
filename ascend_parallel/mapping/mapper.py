"""Sends files to the workers in bundles, and sends files again after a failure.

A bundle is the list of files that one message to a worker carries. It is one batch if batches are slow, and many
batches if they are quick, so that the cost of messages stays negligible. The worker runs the batches of a bundle one
after the other; it repeats a batch that raises file by file. If a worker dies or hangs, the files of its bundle are
sent again, one per bundle. A file that ends its worker a second time has failed.

As long as no file has succeeded, failures are in doubt: the pipeline may be broken in that process (see doubts.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple

from ascend_parallel.backends.last_lines import in_one_line
from ascend_parallel.errors import DiskError, WorkerDied, WorkerError, WorkerTimeout
from ascend_parallel.runner.runner import ParallelPredictUtils
from ascend_parallel.waiting import get_next
from ascend_parallel.worker.engines import BROKEN
from ascend_parallel.worker.pipelines.payload import (
    BUNDLE_LIMIT_S,
    DONE,
    FAILED,
    FILES,
    RECORDS,
    SUSPECT,
    UNSAVED,
    UNTRIED,
    pack_files,
    unpack_reply,
    unpack_results,
)

from .doubts import Doubts
from .files import File
from .outcome import Outcome

__all__ = ["MAX_DEATHS_IN_A_ROW", "BundleResult", "Mapper"]

#: The target time of a bundle: long enough that a message costs less than 1 % of it, short enough to show progress.
_BUNDLE_S = 0.05
#: The maximum number of files in a bundle: their results are in memory at the same time.
_MAX_FILES = 2000
#: Weight of the latest bundle in the moving average of the time per file.
_SMOOTHING = 0.3
#: A file has failed after it has ended this many workers.
_MAX_DEATHS = 2
#: A file has failed after so many failures in workers that were broken from their start.
_MAX_SUSPICIONS = 3
#: After this many deaths in a row, without a bundle completed in between, the run fails: the files are not the cause.
MAX_DEATHS_IN_A_ROW = 40


class BundleResult(NamedTuple):
    """The result of one bundle.

    Attributes:
        outcomes: of the finished files; files that will be sent again are missing.
        lines: lines for ``results.jsonl``; empty if results are not kept there.
        notes: sentences of the worker for the user.
    """

    outcomes: list[Outcome]
    lines: bytes = b""
    notes: Sequence[str] = ()


class _Bundle(NamedTuple):
    positions: Sequence[int]  # indices of the files
    future: Future[Any]


class Mapper:
    """Runs files through the workers of a runner.

    Attributes:
        max_ahead: how many files may be started beyond the first unfinished file; None: no limit.
    """

    def __init__(
        self,
        runner: ParallelPredictUtils,
        files: Sequence[File],
        *,
        workers: Callable[[], int],
        batch_size: int,
        timeout_s: float,
        keep: str,
        max_ahead: int | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            runner: a built runner with the engine "pipeline" or "modelfile".
            files: the files to process, with unique names.
            workers: returns how many bundles the runner runs at a time; on a cluster, the number changes.
            batch_size: files per call of the pipeline.
            timeout_s: time limit per file.
            keep: how results are kept: "files", "lines" or "values".
            max_ahead: see above.
        """
        self._runner = runner
        self._files = files
        self._workers = workers
        self._batch_size = batch_size
        self._timeout_s = timeout_s
        self._keep = keep
        self._max_ahead = max_ahead
        self._next = 0
        self._retries: deque[int] = deque()
        self._untried: deque[int] = deque()
        self._deaths: dict[int, int] = {}
        self._is_finished = bytearray(len(files))
        self._first_unfinished = 0
        self._deaths_in_a_row = 0
        self._known_good: str | None = None
        self._doubts = Doubts()
        self._is_one_by_one = False
        self._suspicions: dict[int, int] = {}
        self._disk_error: DiskError | None = None
        self._in_flight = 0
        self._replies: SimpleQueue[_Bundle] = SimpleQueue()
        self._bundle_files = batch_size
        self._seconds_per_file: float | None = None

    def run(self) -> Iterator[BundleResult]:
        """Yield the results of the bundles in the order of completion.

        Raises:
            DiskError: if the output folder accepts no more files.
            WorkerError: if no device is left.
        """
        self._fill()
        while self._in_flight:
            bundle = get_next(self._replies)
            self._in_flight -= 1
            done = self._complete(bundle)
            if self._disk_error is None:
                self._fill()  # before the yield, so that no worker waits for the caller
            done.outcomes.extend(self._settle_doubts())
            if done.outcomes or done.notes:
                yield done
        if self._disk_error is not None:
            raise self._disk_error

    def _settle_doubts(self) -> list[Outcome]:
        """Try the files in doubt again where that may tell more; else return their failures."""
        if self._known_good is not None:
            self._untried.extend(self._doubts.take_positions())
            if self._disk_error is None:
                self._fill()
            return []
        if self._in_flight and not self._doubts.are_too_many:
            return []
        if not self._in_flight and self._disk_error is None:
            self._retries.extend(self._doubts.take_for_second_round())
            self._is_one_by_one = True  # until one succeeds: their order matters
            self._fill()
        return [] if self._in_flight and not self._doubts.are_too_many else self._finish(self._doubts.take())

    def _finish(self, failures: Mapping[int, Outcome]) -> list[Outcome]:
        for position in failures:
            self._is_finished[position] = True
        return list(failures.values())

    # ---- sending

    def _fill(self) -> None:
        """Keep every worker busy, with a second bundle queued."""
        limit = 1 if self._is_one_by_one and self._known_good is None else 2 * self._workers()
        while self._in_flight < limit:
            if self._retries:
                # A single file, with its own time limit.
                self._send([self._retries.popleft()], self._timeout_s)
            elif self._untried:
                count = min(self._bundle_size(), len(self._untried))
                self._send([self._untried.popleft() for _ in range(count)], self._bundle_timeout_s(count))
            elif self._next < len(self._files) and not self._is_far_ahead():
                positions = range(self._next, min(self._next + self._bundle_size(), len(self._files)))
                self._next = positions.stop
                self._send(positions, self._bundle_timeout_s(len(positions)))
            else:
                return

    def _bundle_timeout_s(self, files: int) -> float:
        """Return the time limit of a bundle; after ``BUNDLE_LIMIT_S`` a worker starts no further batch of it."""
        if files <= self._batch_size:
            return self._timeout_s * files
        return self._timeout_s * self._batch_size + BUNDLE_LIMIT_S

    def _is_far_ahead(self) -> bool:
        if self._max_ahead is None:
            return False
        while self._first_unfinished < self._next and self._is_finished[self._first_unfinished]:
            self._first_unfinished += 1
        return self._next - self._first_unfinished >= self._max_ahead

    def _bundle_size(self) -> int:
        """Return the number of files in the next bundle; it shrinks at the end, so that all workers end together."""
        remaining = len(self._files) - self._next + len(self._untried)
        files_per_bundle = -(-remaining // (2 * self._workers()))
        batches = max(1, min(self._bundle_files, files_per_bundle) // self._batch_size)
        return batches * self._batch_size

    def _send(self, positions: Sequence[int], timeout_s: float) -> None:
        files = [self._files[position] for position in positions]
        request = pack_files(files, self._known_good, self._doubts.fresh_after)
        future = self._runner.submit({FILES: request}, timeout_s=timeout_s)
        self._in_flight += 1
        bundle = _Bundle(positions, future)
        future.add_done_callback(lambda _: self._replies.put(bundle))

    # ---- from the workers

    def _complete(self, bundle: _Bundle) -> BundleResult:
        error = bundle.future.exception()
        if isinstance(error, WorkerError):
            return self._requeue(bundle.positions, error)
        self._deaths_in_a_row = 0
        reply = unpack_reply(bundle.future.result()[RECORDS])
        results = iter(unpack_results(reply.text, reply.arrays) if self._keep == "values" else ())
        outcomes: dict[int, Outcome] = {}
        for position, (status, seconds, detail) in zip(bundle.positions, reply.records, strict=False):
            path, name = self._files[position]
            if status == DONE:
                outputs = tuple(detail or ())
                found = Outcome(name, path, True, "", seconds, reply.device, outputs, tuple(next(results, ())))
                self._known_good = self._known_good or path
                outcomes[position] = found
            elif status == UNSAVED:
                self._disk_error = DiskError(f"{detail}; correct that, and repeat the command with --resume")
                break
            elif not self._is_sent_again(position, status):
                failure = Outcome(name, path, False, detail, seconds, reply.device)
                if not self._doubts.hold(position, failure, is_certain=reply.is_certain):
                    outcomes[position] = failure
        tried = [seconds for status, seconds, _ in reply.records if status in (DONE, FAILED)]
        if tried:
            self._update_bundle_size(sum(tried) / len(tried))
        return BundleResult(self._finish(outcomes), reply.text if self._keep == "lines" else b"", reply.notes)

    def _is_sent_again(self, position: int, status: int) -> bool:
        """Queue a file again that was not tried, or whose failure may be its worker's fault, but not without end."""
        if status == UNTRIED:
            self._untried.append(position)
            return True
        if status != SUSPECT:
            return False
        self._suspicions[position] = self._suspicions.get(position, 0) + 1
        if self._suspicions[position] > _MAX_SUSPICIONS:
            return False
        self._retries.append(position)
        return True

    def _requeue(self, positions: Sequence[int], error: WorkerError) -> BundleResult:
        """Requeue the files of a worker that ended, one per bundle; files that were sent alone before have failed."""
        if isinstance(error, WorkerDied) and error.exit_code == BROKEN:  # the worker tried none of them
            if self._is_one_by_one:
                self._retries.extendleft(positions)
            else:
                self._untried.extend(positions)
            return BundleResult([])
        self._runner.stats()  # raises if no device is left: then the files are not the cause
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row >= MAX_DEATHS_IN_A_ROW:
            raise WorkerDied(
                f"the last {self._deaths_in_a_row} workers ended while they processed files, and none finished a "
                f"bundle: the cause is more likely the pipeline or its devices; the last error: {error}",
                device=error.device,
            )
        outcomes: list[Outcome] = []
        for position in positions:
            deaths = self._deaths[position] = self._deaths.get(position, 0) + 1
            if deaths < _MAX_DEATHS:
                self._retries.append(position)
            else:
                file = self._files[position]
                self._is_finished[position] = True
                seconds = self._timeout_s if isinstance(error, WorkerTimeout) else 0.0
                outcomes.append(
                    Outcome(file.name, file.path, False, self._failure_reason(error), seconds, error.device)
                )
        return BundleResult(outcomes)

    def _failure_reason(self, error: WorkerError) -> str:
        """Return why a file failed."""
        if isinstance(error, WorkerTimeout):
            return (
                f"it took longer than {self._timeout_s:g} s twice, and its workers were killed; if a file may take "
                "longer, raise timeout_s"
            )
        what = "died" if isinstance(error, WorkerDied) else "failed"
        return f"its worker {what} twice; the last time: {in_one_line(error)}"

    def _update_bundle_size(self, seconds: float) -> None:
        """Set the size of the next bundles by the time per file."""
        previous = self._seconds_per_file
        self._seconds_per_file = seconds if previous is None else previous + _SMOOTHING * (seconds - previous)
        files = int(_BUNDLE_S / max(self._seconds_per_file, 1e-9))
        self._bundle_files = max(self._batch_size, min(files, _MAX_FILES))
