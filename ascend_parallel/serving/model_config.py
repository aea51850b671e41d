"""The settings of a model, and those that it shares with the ops of pipelines.

The classes give the names, types, ranges and defaults. ``config_checks.py`` checks what goes beyond them, such as files
and devices. The docstrings of the attributes are the descriptions in the JSON schema.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ascend_parallel.errors import UsageError
from ascend_parallel.runner.options import choose_engine

__all__ = [
    "BatchingConfig",
    "Count",
    "ModelConfig",
    "Name",
    "RunnerConfig",
    "Settings",
    "Text",
    "Version",
    "in_folder",
    "python_in_folder",
    "source_file_of",
]

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
#: What stands for itself in a URL, and is no step to another folder there.
Name = Annotated[
    str,
    Field(
        pattern=r"^[^\s/?#%.\x00-\x1f\x7f][^\s/?#%\x00-\x1f\x7f]*$",
        json_schema_extra={"patternErrorMessage": "text without spaces, /, ?, # and %, that does not begin with a dot"},
    ),
]
Version = Annotated[
    Name,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    Field(json_schema_extra={"type": ["string", "integer"]}),
]
#: The settings of a model that are arguments of ``ParallelPredictUtils`` as they are.
_RUNNER_ARGUMENTS = (
    *("devices", "instances", "engine", "engine_options", "workers", "worker_python", "share_weights"),
    *("batch_axes", "warmup", "build_timeout_s", "max_retries"),
)


class Settings(BaseModel):
    """Settings: unknown keys and wrong types are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class BatchingConfig(Settings):
    """How the requests of a model become batches, and how long they may take."""

    max_batch_size: Count = 16
    """Rows of a batch, at most. A model of fixed batch keeps its own."""

    max_queue_delay_ms: Annotated[float, Field(ge=0)] = 0.0
    """How long the first request of a batch may wait for others while a worker is free, in ms. With 0, a batch is sent
    as soon as a worker is free."""

    max_queue_size: Count = 1024
    """How many requests may wait. Further ones are refused at once, with status 503."""

    timeout_ms: Annotated[float, Field(gt=0)] = 60_000.0
    """How long a request may wait and run, in ms. A worker that computes longer is killed and replaced."""


class RunnerConfig(Settings):
    """What runs a model or an op: devices, engine and workers."""

    devices: Text | list[Text] | None = None
    """Devices, such as 'ascend:0,1', 'gpu:0-3' or 'cpu:0,1'. Default: all devices of the machine's best type."""

    instances: Count = 1
    """How many times each device runs the model at the same time."""

    engine: Text | None = None
    """mslite, onnxruntime, callable, simulated or package.module:EngineClass. Default: by the file's suffix."""

    engine_options: dict[str, Any] = {}
    """Options of the engine. A path in them is relative to the working directory."""

    workers: Literal["processes", "threads"] = "processes"
    """processes: one worker process for each device. threads: threads of the server, which copy nothing; a crash of the
    engine ends the server."""

    worker_python: Text | None = None
    """Python interpreter of the workers, if the engine needs another one: a name on PATH, or a file, relative to the
    configuration file."""

    share_weights: bool = False
    """Whether worker processes on CPUs share one set of weights."""

    batch_axes: dict[str, Annotated[int, Field()] | None] = {}
    """Input or output name: the axis of its rows, or null if it is not sliced. Needed where shapes are ambiguous."""

    precision: Literal["fp32", "fp16", "bf16", "int8"] | None = None
    """The precision to compute in. Default: the model's own. An engine that cannot do it refuses it."""

    warmup: Annotated[int, Field(ge=0)] = 1
    """Runs on zeros before a worker is ready, if the model's shapes are known but for the batch."""

    warmup_examples: list[Text] = []
    """Files of inputs (.npz, arrays by input name) that each worker computes before the model is ready; relative to the
    configuration file."""

    build_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long a worker may take to load the model, in seconds."""

    max_restarts: Annotated[int, Field(ge=0)] | None = None
    """How often a worker process is restarted within ten minutes before its device is given up. Default: no limit."""

    max_retries: Annotated[int, Field(ge=0)] | None = None
    """How often a batch is sent to another worker process after its own died. Default: 2."""


class ModelConfig(RunnerConfig):
    """A model that is served."""

    path: Text
    """A .mindir or .onnx file, module:factory, or file.py:factory. A file is relative to the configuration file."""

    name: Name = Field(default_factory=str)
    """The name in URLs. Default: the name of the file or module, without its suffix."""

    version: Version = "1"
    """The version in URLs. Several models may have one name and different versions."""

    batching: BatchingConfig = BatchingConfig()
    """How requests become batches, and how long they may take."""

    @model_validator(mode="before")
    @classmethod
    def _name_by_path(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("path"), str):
            return {**data, "name": _name_of(data["path"])}
        return data

    @property
    def source_file(self) -> str:
        """The Python file of ``file.py:factory``; "" for other kinds of model."""
        return source_file_of(self.path)

    def runner_arguments(self) -> dict[str, Any]:
        """Return the arguments of :class:`ascend_parallel.ParallelPredictUtils` for this model."""
        arguments = {name: getattr(self, name) for name in _RUNNER_ARGUMENTS}
        arguments |= {"model": self.path, "predict_timeout_s": self.batching.timeout_ms / 1000}
        arguments["max_restarts"] = self.max_restarts
        if self.max_restarts is None and self.workers == "processes":
            arguments["max_restarts"] = sys.maxsize  # a server has to be there again, however often a worker dies
        if self.precision is not None:
            arguments["precision"] = self.precision
        return arguments

    def relative_to(self, folder: str) -> ModelConfig:
        """Return the same model with its files found from ``folder``."""
        engine = None if self.engine is None else in_folder(folder, self.engine)
        found: dict[str, Any] = {"engine": engine, "path": in_folder(folder, self.path)}
        if _is_model_file(self.path, engine):
            found["path"] = os.path.join(folder, self.path)
        found["worker_python"] = python_in_folder(folder, self.worker_python)
        found["warmup_examples"] = [os.path.join(folder, path) for path in self.warmup_examples]
        return self.model_copy(update=found)


def _name_of(path: str) -> str:
    """Return the name of a model that has none: ``unet`` of a/unet.onnx, ``mine`` of mine.py:make or a.mine:make."""
    source, colon, _ = path.rpartition(":")
    if colon and not source.endswith(".py"):
        return source.rpartition(".")[2]
    return Path(source or path).stem


def source_file_of(text: str) -> str:
    """Return the Python file of ``file.py:name``; "" of another text."""
    source = text.rpartition(":")[0]
    return source if source.endswith(".py") else ""


def in_folder(folder: str, text: str) -> str:
    """Return ``file.py:name`` with the file found from ``folder``; another text is returned as it is."""
    return os.path.join(folder, text) if source_file_of(text) else text


def python_in_folder(folder: str, python: str | None) -> str | None:
    """Return an interpreter that is a file with the file found from ``folder``; a name on PATH is returned as it is."""
    return os.path.join(folder, python) if python is not None and os.sep in python else python


def _is_model_file(path: str, engine: str | None) -> bool:
    try:
        return bool(choose_engine([path], engine).suffixes)
    except UsageError:  # config_checks.py reports it
        return False
