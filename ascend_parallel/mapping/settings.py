"""The settings of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ascend_parallel.errors import UsageError

if TYPE_CHECKING:
    from ascend_parallel.devices import Device

__all__ = ["OUTPUT_FORMATS", "MapSettings"]

#: "files": one file per result; "jsonl": one line of ``results.jsonl`` per input file.
OUTPUT_FORMATS = ("files", "jsonl")


@dataclass(frozen=True)
class MapSettings:
    """The settings of a run, without its files; see :func:`ascend_parallel.parallel_map`.

    Attributes:
        max_ahead: how many files may be started beyond the first unfinished file; None: no limit.
        input_dir: the folder that the names of files are relative to, if there is one; a run can be resumed only with
            the same folder.
    """

    pipeline: str
    devices: str | Iterable[str | Device] | None = None
    instances_per_device: int = 1
    batch_size: int = 1
    options: Mapping[str, Any] | None = None
    preprocess: str | None = None
    postprocess: str | None = None
    output_dir: str | os.PathLike[str] | None = None
    output_format: str = "files"
    resume: bool = False
    retry_failed: bool = False
    timeout_s: float = 600.0
    worker_python: str | os.PathLike[str] | None = None
    max_ahead: int | None = None
    input_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Check the settings that nothing else checks; raises UsageError."""
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise UsageError(f"batch_size is {self.batch_size!r}; expected a whole number, at least 1")
        if type(self.instances_per_device) is not int or self.instances_per_device < 1:
            raise UsageError(
                f"instances_per_device is {self.instances_per_device!r}; expected a whole number, at least 1"
            )
        if not isinstance(self.timeout_s, (int, float)) or not self.timeout_s > 0:
            raise UsageError(f"timeout_s is {self.timeout_s!r}; expected seconds, more than 0")
        if self.output_format not in OUTPUT_FORMATS:
            raise UsageError(f"output_format is {self.output_format!r}; expected {' or '.join(OUTPUT_FORMATS)}")
        if self.output_dir is None and (self.resume or self.output_format != "files"):
            raise UsageError("resume and output_format need an output_dir: without one, results are returned")
        if self.retry_failed and not self.resume:
            raise UsageError("retry_failed needs resume: it applies to files that failed in an earlier run")

    @property
    def keep(self) -> str:
        """How results are kept: "files", "lines" of one file, or "values" for the caller."""
        if self.output_dir is None:
            return "values"
        return "files" if self.output_format == "files" else "lines"
