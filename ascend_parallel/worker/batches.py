"""Files run through a pipeline, batch by batch; one that fails costs only itself."""

from __future__ import annotations

import os
import sys
import time
import traceback
from typing import Any, Dict, List, Tuple, Union

from .engines.parcel import DONE, FAILED, UNSAVED
from .keepers import FileKeeper, LineKeeper, ValueKeeper
from .pairing import ResultsDoNotPair, pair
from .pipelines import Pipeline
from .saving import CannotSave

#: (path, name).
File = Tuple[str, str]
#: [status, seconds, detail]; see parcel.py.
Record = List[Any]

#: A longer reason is cut: it goes into a line of the manifest.
_MAX_REASON_CHARS = 1000


class BatchRunner:
    """Runs files through a pipeline.

    Attributes:
        keeper: what becomes of the results.
    """

    def __init__(self, pipeline: Pipeline, options: Dict[str, Any]) -> None:
        self._pipeline = pipeline
        self._batch_size = options["batch_size"]
        self.keeper = make_keeper(options)

    def run(self, files: List[File]) -> List[Record]:
        """Return a record for each file, in order; what is kept of their results is for the keeper to give.

        Where the output folder takes no more files, the last record says so, and the files behind it have none.
        """
        records: List[Record] = []
        start = 0
        while start < len(files):
            batch = files[start : start + self._batch_size]
            start += len(batch)
            try:
                self._run_batch(batch, records)
            except CannotSave as error:
                records.append([UNSAVED, 0.0, str(error)])
                break
        return records

    def _run_batch(self, batch: List[File], records: List[Record]) -> None:
        """Add the records of a batch; where it fails, run its files one by one."""
        started_s = time.perf_counter()
        try:
            details = self._attempt(batch)
        except CannotSave:
            raise
        except Exception as error:
            if len(batch) == 1:
                records.append([FAILED, _since(started_s), reason_of(error)])
                return
            self._note(error)
            for file in batch:
                self._run_batch([file], records)
        else:
            seconds = round(_since(started_s) / len(batch), 6)
            records.extend([DONE, seconds, detail] for detail in details)

    def _attempt(self, batch: List[File]) -> List[Any]:
        paths = [path for path, _ in batch]
        return self.keeper.keep([name for _, name in batch], pair(paths, self._pipeline(paths)))

    def _note(self, error: Exception) -> None:
        """Give files one at a time from now on, where results of several cannot be told apart: no batch would do."""
        if isinstance(error, ResultsDoNotPair):
            self._batch_size = 1
            print("%s, and they do not say whose they are (input_path); from now on it gets one file at a time" % error)


def make_keeper(options: Dict[str, Any]) -> Union[FileKeeper, LineKeeper, ValueKeeper]:
    """Return what keeps the results, by the option ``keep``."""
    if options["keep"] == "files":
        return FileKeeper(options["output_dir"])
    return LineKeeper() if options["keep"] == "lines" else ValueKeeper()


def reason_of(error: BaseException) -> str:
    """Return an exception as a sentence: its type, what it says, and where it was raised."""
    text = " ".join(str(error).split())[:_MAX_REASON_CHARS]
    if isinstance(error, ResultsDoNotPair):
        return text
    frames = traceback.extract_tb(sys.exc_info()[2])
    where = " (%s, line %s)" % (os.path.basename(frames[-1].filename), frames[-1].lineno) if frames else ""
    return "%s: %s%s" % (type(error).__name__, text, where)


def _since(started_s: float) -> float:
    return round(time.perf_counter() - started_s, 6)
