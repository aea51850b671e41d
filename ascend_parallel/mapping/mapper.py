"""Files sent to workers, bundle by bundle, and sent again where something went wrong.

A bundle is what one message carries: one batch where batches take long, many where they are quick, so that messages
never are what takes the time. A worker runs a bundle's batches one after the other; a batch that raises is run again
file by file, there. A bundle whose worker died or hung is sent again as files alone, elsewhere; a file that ends its
worker once more is set aside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple

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
    unpack_records,
    unpack_results,
)

from .files import File
from .outcome import Outcome

__all__ = ["BundleResult", "Mapper"]

#: A bundle is to take about so long: a message costs less than a hundredth of it, and progress is still seen.
_BUNDLE_S = 0.05
#: More files are never in a bundle: their results are in memory together.
_MAX_FILES = 2000
#: How much one bundle counts in the pace against those before.
_SMOOTHING = 0.3
#: How often a file may end its worker before it is set aside.
_MAX_DEATHS = 2
#: So many workers may end one after the other, with nothing done in between, before the files are not blamed any more.
_MAX_DEATHS_IN_A_ROW = 40


class BundleResult(NamedTuple):
    """What came of one bundle.

    Attributes:
        outcomes: of files that are dealt with; those that are sent again are missing.
        lines: of the file of results; empty where they are not kept there.
    """

    outcomes: list[Outcome]
    lines: bytes = b""


class _Bundle(NamedTuple):
    positions: Sequence[int]  # among the files
    future: Future[Any]


class Mapper:
    """Runs files through the workers of a runner.

    Attributes:
        max_ahead: how many files may be taken beyond the first one that is not dealt with; None: any number.
    """

    def __init__(
        self,
        runner: ParallelPredictUtils,
        files: Sequence[File],
        *,
        workers: int,
        batch_size: int,
        timeout_s: float,
        keep: str,
        max_ahead: int | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            runner: built, its engine "pipeline" or "modelfile".
            files: what is to be done, each name once.
            workers: how many bundles it runs at a time.
            batch_size: files that a pipeline is given at a time.
            timeout_s: how long one file may take.
            keep: what becomes of results: "files", "lines" or "values".
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
        self._again: deque[int] = deque()
        self._rest: deque[int] = deque()
        self._deaths: dict[int, int] = {}
        self._is_settled = bytearray(len(files))
        self._first_open = 0
        self._deaths_in_a_row = 0
        self._control: str | None = None
        self._full: DiskError | None = None
        self._in_flight = 0
        self._answers: SimpleQueue[_Bundle] = SimpleQueue()
        self._bundle_files = batch_size
        self._pace_s: float | None = None

    def run(self) -> Iterator[BundleResult]:
        """Yield what comes of the files, in the order in which bundles are done.

        Raises:
            DiskError: the output folder takes no more files.
            WorkerError: no device is left.
        """
        self._fill()
        while self._in_flight:
            bundle = get_next(self._answers)
            self._in_flight -= 1
            done = self._settle(bundle)
            if self._full is None:
                self._fill()  # before the caller gets its turn, so that no worker waits for it
            if done.outcomes:
                yield done
        if self._full is not None:
            raise self._full

    # ---- to the workers

    def _fill(self) -> None:
        """Keep each worker busy, with a second bundle queued."""
        while self._in_flight < 2 * self._workers:
            if self._again:
                # One file a bundle, and its own time.
                self._send([self._again.popleft()], self._timeout_s)
            elif self._rest:
                count = min(self._bundle_size(), len(self._rest))
                self._send([self._rest.popleft() for _ in range(count)], self._bundle_timeout_s(count))
            elif self._next < len(self._files) and not self._is_far_ahead():
                positions = range(self._next, min(self._next + self._bundle_size(), len(self._files)))
                self._next = positions.stop
                self._send(positions, self._bundle_timeout_s(len(positions)))
            else:
                return

    def _bundle_timeout_s(self, files: int) -> float:
        """Return how long a bundle may take: its last batch is begun within a limit, unless it is the only one."""
        if files <= self._batch_size:
            return self._timeout_s * files
        return self._timeout_s * self._batch_size + BUNDLE_LIMIT_S

    def _is_far_ahead(self) -> bool:
        if self._max_ahead is None:
            return False
        while self._first_open < self._next and self._is_settled[self._first_open]:
            self._first_open += 1
        return self._next - self._first_open >= self._max_ahead

    def _bundle_size(self) -> int:
        """Return how many files the next bundle has: towards the end fewer, so that all workers end together."""
        left = len(self._files) - self._next + len(self._rest)
        share = -(-left // (2 * self._workers))
        batches = max(1, min(self._bundle_files, share) // self._batch_size)
        return batches * self._batch_size

    def _send(self, positions: Sequence[int], timeout_s: float) -> None:
        request = pack_files([self._files[position] for position in positions], self._control)
        future = self._runner.submit({FILES: request}, timeout_s=timeout_s)
        self._in_flight += 1
        bundle = _Bundle(positions, future)
        future.add_done_callback(lambda _: self._answers.put(bundle))

    # ---- from the workers

    def _settle(self, bundle: _Bundle) -> BundleResult:
        error = bundle.future.exception()
        if isinstance(error, WorkerError):
            return self._lose(bundle.positions, error)
        self._deaths_in_a_row = 0
        device, records, text, arrays = unpack_records(bundle.future.result()[RECORDS])
        results = iter(unpack_results(text, arrays) if self._keep == "values" else ())
        outcomes: list[Outcome] = []
        for position, (status, seconds, detail) in zip(bundle.positions, records, strict=False):
            path, name = self._files[position]
            if status == DONE:
                outputs = tuple(detail or ())
                outcome = Outcome(name, path, True, "", seconds, device, outputs, tuple(next(results, ())))
                self._control = self._control or path
            elif status in (UNTRIED, SUSPECT):
                (self._rest if status == UNTRIED else self._again).append(position)
                continue
            elif status == UNSAVED:
                self._full = DiskError(f"{detail}; mend that, and run the same again with --resume")
                break
            else:
                outcome = Outcome(name, path, False, detail, seconds, device)
            outcomes.append(outcome)
            self._is_settled[position] = True
        tried = [seconds for status, seconds, _ in records if status in (DONE, FAILED)]
        if tried:
            self._note_pace(sum(tried) / len(tried))
        return BundleResult(outcomes, text if self._keep == "lines" else b"")

    def _lose(self, positions: Sequence[int], error: WorkerError) -> BundleResult:
        """Send the files of a worker that ended again, each alone; set those aside that were alone already."""
        if isinstance(error, WorkerDied) and error.exit_code == BROKEN:  # none of them was tried
            self._rest.extend(positions)
            return BundleResult([])
        self._runner.stats()  # raises where no device is left: then no file is to blame
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row >= _MAX_DEATHS_IN_A_ROW:
            raise WorkerDied(
                f"the last {self._deaths_in_a_row} workers ended over their files, with nothing done in between: the "
                f"pipeline or its devices are the likelier cause; the last: {error}",
                device=error.device,
            )
        outcomes: list[Outcome] = []
        for position in positions:
            deaths = self._deaths[position] = self._deaths.get(position, 0) + 1
            if deaths < _MAX_DEATHS:
                self._again.append(position)
            else:
                file = self._files[position]
                self._is_settled[position] = True
                seconds = self._timeout_s if isinstance(error, WorkerTimeout) else 0.0
                outcomes.append(Outcome(file.name, file.path, False, self._blame(error), seconds, error.device))
        return BundleResult(outcomes)

    def _blame(self, error: WorkerError) -> str:
        """Return why a file is set aside."""
        if isinstance(error, WorkerTimeout):
            return (
                f"it took longer than {self._timeout_s:g} s twice, and its workers were killed; if a file may take "
                "longer, raise timeout_s"
            )
        told = " ".join(str(error).split("\n  its last lines:")[0].split())
        return f"its worker {'died' if isinstance(error, WorkerDied) else 'failed'} twice; the last time: {told}"

    def _note_pace(self, seconds: float) -> None:
        """Size the bundles to come by how long a file takes."""
        before_s = self._pace_s
        self._pace_s = seconds if before_s is None else before_s + _SMOOTHING * (seconds - before_s)
        wanted = int(_BUNDLE_S / max(self._pace_s, 1e-9))
        self._bundle_files = max(self._batch_size, min(wanted, _MAX_FILES))
