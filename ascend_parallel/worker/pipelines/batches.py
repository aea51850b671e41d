"""Runs files through a pipeline, batch by batch; a file that fails does not affect the other files."""

from __future__ import annotations

import os
import sys
import time
import traceback
from typing import Any, Dict, List, Optional, Set, Tuple

from ..engines.base import EngineBroken
from .opening import Pipeline
from .pairing import ResultMismatch, pair
from .payload import BUNDLE_LIMIT_S, DONE, FAILED, SUSPECT, UNSAVED, UNTRIED
from .saving import SaveError
from .writers import FileWriter, FormatWriter, JsonLinesWriter, ValueWriter, Writer

#: (path, name).
File = Tuple[str, str]
#: [status, seconds, detail]; see payload.py.
Record = List[Any]

#: A longer reason is cut: it goes into one line of the manifest.
_MAX_REASON_CHARS = 1000
#: After this many failures in a row, a worker checks its pipeline even if the same kind of error was harmless before.
_FAILURES_UNTIL_CHECK = 10


class BatchRunner:
    """Runs files through a pipeline.

    Attributes:
        writer: saves or collects the results.
        last_good: the path of the last file that succeeded in this process; None before the first.
    """

    def __init__(self, pipeline: Pipeline, options: Dict[str, Any]) -> None:
        self._pipeline = pipeline
        self._batch_size = options["batch_size"]
        self.writer = make_writer(options)
        self._is_broken = False
        self._failures_in_a_row = 0
        self.last_good: Optional[str] = None
        self._harmless: Set[str] = set()

    def run(self, files: List[File], known_good: Optional[str], fresh_after: int) -> List[Record]:
        """Run files; return one record per file, in order. The writer holds the results that are not saved to files.

        If the output folder accepts no more files, the last record says so, and the files after it have no record.

        Args:
            files: the files to process.
            known_good: the path of a file that was processed without an error before. If it fails now, the pipeline is
                broken: after some errors of a device, such as CUDA's illegal memory access, every later call in the
                same process fails.
            fresh_after: how many files may fail without a known good one, and without a success in this process, before
                it is to be replaced: it may have been broken from its start, or by its first file.
        """
        if self._is_broken:
            raise EngineBroken("the pipeline broke in an earlier batch")
        records: List[Record] = []
        end_s = time.perf_counter() + BUNDLE_LIMIT_S
        while len(records) < len(files) and not self._is_broken and not (records and time.perf_counter() > end_s):
            batch = files[len(records) : len(records) + self._batch_size]
            try:
                batch_records = self._run_batch(batch)
            except SaveError as error:
                records.append([UNSAVED, 0.0, str(error)])
                return records
            if batch_records[-1][0] == FAILED:
                good = known_good or self.last_good
                if good is None:
                    self._give_up_after(fresh_after)
                else:
                    batch_records = self._check(batch_records, good)
            records += batch_records
        return records + [[UNTRIED, 0.0, None] for _ in files[len(records) :]]

    def _run_batch(self, batch: List[File]) -> List[Record]:
        """Return the records of a batch; if the batch fails, run its files one by one."""
        started_s = time.perf_counter()
        try:
            details = self._process(batch)
        except SaveError:
            raise
        except Exception as error:
            if len(batch) == 1:
                self._failures_in_a_row += 1
                return [[FAILED, _since(started_s), failure_reason(error)]]
            self._disable_batching(error)
            return [record for file in batch for record in self._run_batch([file])]
        self._failures_in_a_row = 0
        self.last_good = batch[-1][0]
        seconds = round(_since(started_s) / len(batch), 6)
        return [[DONE, seconds, detail] for detail in details]

    def _check(self, records: List[Record], known_good: str) -> List[Record]:
        """Return the records of a batch whose last file failed, after a check that the pipeline still works.

        If the pipeline is broken, the cause is unknown for a batch of several files, and where no file has succeeded in
        this process: they are marked as suspects. Otherwise a file that was alone is the cause.
        """
        reasons = {_error_kind(record[2]) for record in records if record[0] == FAILED}
        if reasons <= self._harmless and self._failures_in_a_row % _FAILURES_UNTIL_CHECK:
            return records
        try:
            list(pair([known_good], self._pipeline([known_good])))
        except Exception as error:
            self._is_broken = True
            print("the pipeline is broken: %s, processed before, fails now (%s)" % (known_good, failure_reason(error)))
            if len(records) == 1 and self.last_good is not None:
                return records
            return [[SUSPECT, *record[1:]] if record[0] == FAILED else record for record in records]
        self._harmless |= reasons
        self.last_good = known_good
        return records

    def _give_up_after(self, failures: int) -> None:
        if self._failures_in_a_row >= failures:
            self._is_broken = True
            print("%d files failed, and none went well in this process: a new one goes on" % self._failures_in_a_row)

    def _process(self, batch: List[File]) -> List[Any]:
        paths = [path for path, _ in batch]
        return self.writer.write([name for _, name in batch], pair(paths, self._pipeline(paths)))

    def _disable_batching(self, error: Exception) -> None:
        """Process files one at a time from now on, if the results of several files cannot be assigned to the files."""
        if isinstance(error, ResultMismatch):
            self._batch_size = 1
            print("%s, and the results have no input_path; from now on the pipeline gets one file at a time" % error)


def make_writer(options: Dict[str, Any]) -> Writer:
    """Return the writer for the options ``keep`` and ``save``."""
    if options.get("save"):
        return FormatWriter(options["output_dir"], options["save"])
    if options["keep"] == "files":
        return FileWriter(options["output_dir"])
    return JsonLinesWriter() if options["keep"] == "lines" else ValueWriter()


def failure_reason(error: BaseException) -> str:
    """Return an exception as one sentence: its type, its message, and where it was raised."""
    text = " ".join(str(error).split())[:_MAX_REASON_CHARS]
    if isinstance(error, ResultMismatch):
        return text
    frames = traceback.extract_tb(sys.exc_info()[2])
    where = " (%s, line %s)" % (os.path.basename(frames[-1].filename), frames[-1].lineno) if frames else ""
    return "%s: %s%s" % (type(error).__name__, text, where)


def _error_kind(reason: str) -> str:
    """Return what a failure reason has in common with others of its kind: the type, and where it was raised."""
    return reason.partition(":")[0] + reason.rpartition("(")[2]


def _since(started_s: float) -> float:
    return round(time.perf_counter() - started_s, 6)
