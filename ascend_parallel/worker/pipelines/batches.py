"""Files run through a pipeline, batch by batch; one that fails costs only itself."""

from __future__ import annotations

import os
import sys
import time
import traceback
from typing import Any, Dict, List, Optional, Set, Tuple, Union

from ..engines.base import EngineBroken
from .opening import Pipeline
from .pairing import ResultsDoNotPair, pair
from .payload import BUNDLE_LIMIT_S, DONE, FAILED, SUSPECT, UNSAVED, UNTRIED
from .saving import CannotSave
from .writers import FileWriter, JsonLinesWriter, ValueWriter

#: (path, name).
File = Tuple[str, str]
#: [status, seconds, detail]; see payload.py.
Record = List[Any]

#: A longer reason is cut: it goes into a line of the manifest.
_MAX_REASON_CHARS = 1000
#: After so many failures in a row even errors that were harmless before make a worker check that its pipeline works.
_FAILURES_UNTIL_CHECK = 10


class BatchRunner:
    """Runs files through a pipeline.

    Attributes:
        writer: what becomes of the results.
    """

    def __init__(self, pipeline: Pipeline, options: Dict[str, Any]) -> None:
        self._pipeline = pipeline
        self._batch_size = options["batch_size"]
        self.writer = make_writer(options)
        self._is_broken = False
        self._failures_in_a_row = 0
        self._harmless: Set[str] = set()

    def run(self, files: List[File], control: Optional[str]) -> List[Record]:
        """Return a record for each file, in order; what is kept of their results is for the writer to give.

        Where the output folder takes no more files, the last record says so, and the files behind it have none.

        Args:
            files: to be done.
            control: the path of a file that went well before: if it fails now, the pipeline has broken. After some
                errors of a device (CUDA's illegal memory access is one) nothing succeeds any more in that process.
        """
        if self._is_broken:
            raise EngineBroken("the pipeline broke in an earlier batch")
        records: List[Record] = []
        end_s = time.perf_counter() + BUNDLE_LIMIT_S
        while len(records) < len(files) and not self._is_broken and not (records and time.perf_counter() > end_s):
            batch = files[len(records) : len(records) + self._batch_size]
            try:
                tried = self._run_batch(batch)
            except CannotSave as error:
                records.append([UNSAVED, 0.0, str(error)])
                return records
            if tried[-1][0] == FAILED and control is not None:
                tried = self._check(tried, control)
            records += tried
        return records + [[UNTRIED, 0.0, None] for _ in files[len(records) :]]

    def _run_batch(self, batch: List[File]) -> List[Record]:
        """Return the records of a batch; where it fails, of its files one by one."""
        started_s = time.perf_counter()
        try:
            details = self._attempt(batch)
        except CannotSave:
            raise
        except Exception as error:
            if len(batch) == 1:
                self._failures_in_a_row += 1
                return [[FAILED, _since(started_s), reason_of(error)]]
            self._note(error)
            return [record for file in batch for record in self._run_batch([file])]
        self._failures_in_a_row = 0
        seconds = round(_since(started_s) / len(batch), 6)
        return [[DONE, seconds, detail] for detail in details]

    def _check(self, tried: List[Record], control: str) -> List[Record]:
        """Return the records of a batch whose last file failed; it is not to blame if the pipeline broke over another.

        What failed alone, in a process that worked until then, is to blame.
        """
        reasons = {_kind_of(record[2]) for record in tried if record[0] == FAILED}
        if reasons <= self._harmless and self._failures_in_a_row % _FAILURES_UNTIL_CHECK:
            return tried
        try:
            list(pair([control], self._pipeline([control])))
        except Exception as error:
            self._is_broken = True
            print("the pipeline broke: %s, which went well before, now fails (%s)" % (control, reason_of(error)))
            return tried if len(tried) == 1 else [[SUSPECT, 0.0, None] if r[0] == FAILED else r for r in tried]
        self._harmless |= reasons
        return tried

    def _attempt(self, batch: List[File]) -> List[Any]:
        paths = [path for path, _ in batch]
        return self.writer.keep([name for _, name in batch], pair(paths, self._pipeline(paths)))

    def _note(self, error: Exception) -> None:
        """Give files one at a time from now on, where results of several cannot be told apart: no batch would do."""
        if isinstance(error, ResultsDoNotPair):
            self._batch_size = 1
            print("%s, and they do not say whose they are (input_path); from now on it gets one file at a time" % error)


def make_writer(options: Dict[str, Any]) -> Union[FileWriter, JsonLinesWriter, ValueWriter]:
    """Return what keeps the results, by the option ``keep``."""
    if options["keep"] == "files":
        return FileWriter(options["output_dir"])
    return JsonLinesWriter() if options["keep"] == "lines" else ValueWriter()


def reason_of(error: BaseException) -> str:
    """Return an exception as a sentence: its type, what it says, and where it was raised."""
    text = " ".join(str(error).split())[:_MAX_REASON_CHARS]
    if isinstance(error, ResultsDoNotPair):
        return text
    frames = traceback.extract_tb(sys.exc_info()[2])
    where = " (%s, line %s)" % (os.path.basename(frames[-1].filename), frames[-1].lineno) if frames else ""
    return "%s: %s%s" % (type(error).__name__, text, where)


def _kind_of(reason: str) -> str:
    """Return what an error's reason has in common with others of its kind: its type, and where it was raised."""
    return reason.partition(":")[0] + reason.rpartition("(")[2]


def _since(started_s: float) -> float:
    return round(time.perf_counter() - started_s, 6)
