"""The settings of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ascend_parallel.checks import check_one_of, check_seconds, check_whole_number
from ascend_parallel.errors import UsageError
from ascend_parallel.worker.pipelines.choices import ALL, PAGES, RESULT_FORMATS, SEPARATE

if TYPE_CHECKING:
    from ascend_parallel.devices import Device

__all__ = ["OUTPUT_FORMATS", "MapSettings", "is_of_ops", "read_formats"]

#: "files": one file per result; "jsonl": one line of ``results.jsonl`` per input file.
OUTPUT_FORMATS = ("files", "jsonl")


@dataclass(frozen=True)
class MapSettings:
    """The settings of a run, without its files; see :func:`ascend_parallel.parallel_map`.

    Attributes:
        name: which pipeline of a configuration file that has several; None: the only one.
        engine: the engine of a model file; None: chosen by its suffix.
        precision: what a model file is computed in; None: what the file and the engine make it.
        cluster: None: this machine; "ray" or "ray=ADDRESS": the hosts of a Ray cluster.
        num_devices: how many devices of the cluster; None: all.
        max_ahead: how many files may be sent beyond the first one without an outcome; None: any number.
        input_dir: the folder that the files' names are relative to; None: there is none. A run is resumed only with the
            same one.
    """

    pipeline: str
    devices: str | Iterable[str | Device] | None = None
    instances_per_device: int = 1
    batch_size: int = 1
    options: Mapping[str, Any] | None = None
    precision: str | None = None
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
    engine: str | None = None
    workers: str = "processes"
    predict_options: Mapping[str, Any] | None = None
    pages: str = SEPARATE
    save: str | Iterable[str] | None = None
    share_weights: bool = False
    cluster: str | None = None
    num_devices: int | None = None
    name: str | None = None

    @classmethod
    def pick(cls, arguments: Mapping[str, Any], **others: Any) -> MapSettings:
        """Return the settings among some arguments by name, which may hold other things, and others."""
        names = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in arguments.items() if name in names}, **others)

    def __post_init__(self) -> None:
        """Check what no other place checks; raises UsageError."""
        check_whole_number("batch_size", self.batch_size, 1)
        check_whole_number("instances_per_device", self.instances_per_device, 1)
        check_seconds("timeout_s", self.timeout_s)
        check_one_of("output_format", self.output_format, OUTPUT_FORMATS)
        check_one_of("pages", self.pages, PAGES)
        if read_formats(self.save) and (self.output_dir is None or self.output_format != "files"):
            raise UsageError("save writes files: it needs an output_dir, and not the output_format jsonl")
        if self.output_dir is None and (self.resume or self.output_format != "files"):
            raise UsageError("resume and output_format need an output_dir: without one, results are returned")
        if self.num_devices is not None and self.cluster is None:
            raise UsageError("num_devices is for a cluster: without one, name the devices")
        if self.name is not None and not is_of_ops(self.pipeline):
            raise UsageError("name says which pipeline of pipeline:CONFIG.yml is run: for others, leave name out")
        if self.retry_failed and not self.resume:
            raise UsageError("retry_failed needs resume: it applies to files that failed in an earlier run")

    @property
    def keep(self) -> str:
        """How results are kept: "files", "lines" of one file, or "values" for the caller."""
        if self.output_dir is None:
            return "values"
        return "files" if self.output_format == "files" else "lines"


def is_of_ops(pipeline: object) -> bool:
    """Whether a pipeline is one of ops, described by a server's configuration file."""
    return isinstance(pipeline, str) and pipeline.startswith("pipeline:") and pipeline.endswith((".yml", ".yaml"))


def read_formats(save: str | Iterable[str] | None) -> list[str]:
    """Return the formats that ``save`` names: "json,img", or a list of names.

    Raises:
        UsageError: if one is unknown or named twice, or "all" is not alone.
    """
    if save is None:
        return []
    names = [name.strip() for name in save.split(",")] if isinstance(save, str) else list(save)
    known = ", ".join(RESULT_FORMATS)
    for name in names:
        if name not in RESULT_FORMATS:
            raise UsageError(f"save names {name!r}; expected one or more of {known}, with commas")
    if not names or len(set(names)) < len(names) or (ALL in names and len(names) > 1):
        raise UsageError(f"save is {save!r}; expected each of {known} once at most, and {ALL} alone")
    return names
