"""The settings of a pipeline and its ops, as YAML has them.

The classes give the names, types, ranges and defaults. ``config_checks.py`` checks what goes beyond them.
"""

# ruff: noqa: RUF012 - pydantic copies the defaults

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from ascend_parallel.serving.model_config import (
    BatchingConfig,
    Count,
    ModelConfig,
    Name,
    RunnerConfig,
    Settings,
    Text,
    Version,
    in_folder,
    python_in_folder,
    source_file_of,
)

from .graph import REQUEST, Graph

__all__ = ["RESERVED_SERVICES", "OpBatchingConfig", "OpConfig", "PadConfig", "PipelineConfig"]

OpName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$",
        json_schema_extra={"patternErrorMessage": "letters, digits, _ and -, not beginning with a digit"},
    ),
]
#: "detect", ["request", "detect"], or {image: request.image, boxes: detect.boxes}.
Sources = Annotated[
    Text | list[Text] | dict[str, Text],
    Field(
        json_schema_extra={
            "patternErrorMessage": "the name of an op, a list of names, or a mapping such as {boxes: detect.boxes}"
        }
    ),
]
Number = Annotated[float | int, WithJsonSchema({"type": "number"})]
#: The settings of an op that are those of a model.
_MODEL_SETTINGS = ("path", *RunnerConfig.model_fields)
#: What only one kind of op has.
PYTHON_ONLY = ("options", "interface", "concurrency", "rename", "fetch_list")
WITH_MODEL = ("engine", "engine_options", "precision", "rename", "fetch_list")
#: The first parts of the server's own routes, which are no services of Paddle Serving.
RESERVED_SERVICES = ("v1", "v2")


class PadConfig(Settings):
    """How an input is made longer along one axis, so that inputs of different sizes make one batch."""

    axis: Annotated[int, Field(ge=1)]
    """The axis that is padded, at least 1: axis 0 is that of the rows."""

    buckets: list[Count] = []
    """The sizes to pad to, the next larger one. A larger input keeps its own. Default: the largest of the batch."""

    value: Number = 0
    """What is filled in."""


class OpBatchingConfig(Settings):
    """How the requests of an op are computed together."""

    max_batch_size: Count = 16
    """Rows that the model computes at a time, and requests that one worker takes at a time, at most."""

    max_queue_delay_ms: Annotated[float, Field(ge=0)] = 0.0
    """How long the first request of a batch may wait for others while a worker is free, in ms."""

    pad: dict[str, PadConfig] = {}
    """Name of a model's input: how it is padded. Only for Python around a model."""


class OpConfig(RunnerConfig):
    """An op of a pipeline: a model (path), Python (python), or Python around a model (both)."""

    name: OpName
    """Its name in the pipeline, which others name in their inputs."""

    inputs: Sources = REQUEST
    """Where its inputs come from: 'request', the name of an op, a list of these, or a mapping of its input to the
    output of an op, such as {image: request.image, boxes: detect.boxes}."""

    python: Text | None = None
    """module:Class or file.py:Class; a file is relative to the configuration file. It is made in each worker process
    as Class(device='cpu:0', **options)."""

    options: dict[str, Any] = {}
    """Keyword arguments of the class."""

    interface: Literal["op", "paddle_serving"] = "op"
    """paddle_serving: the class is an Op of Paddle Serving."""

    path: Text | None = None
    """A .mindir, .onnx or .om file, module:factory, or file.py:factory. A file is relative to the configuration
    file."""

    rename: dict[str, Text] = {}
    """What the Python calls inputs and outputs of the model, where the model has other names: the Python's name -> the
    model's."""

    fetch_list: Annotated[list[Text], Field(min_length=1)] | None = None
    """With interface paddle_serving: the outputs of the model that the op gets, by the Python's names. Default: all."""

    concurrency: Count | None = None
    """Worker processes of an op with Python. Process i is bound to device i modulo the number of devices. Default: one
    for each device."""

    timeout_ms: Annotated[float, Field(gt=0)] = 60_000.0
    """How long a worker may compute, in ms; then it is killed and replaced, and the requests that it had beside the one
    that hangs are computed again, each alone. A request may wait for the op as long as the pipeline's timeout_ms."""

    retry: Annotated[int, Field(ge=0)] = 0
    """How often a request is tried again after the op failed with it or was not done in time."""

    batching: OpBatchingConfig = OpBatchingConfig()
    """How requests are computed together."""

    @property
    def is_by_op(self) -> bool:
        """Whether it gets its inputs by the ops that they come from, as Paddle Serving's ops do."""
        return self.interface == "paddle_serving"

    @property
    def source_file(self) -> str:
        """The Python file of ``file.py:Class``; "" for a module, or none."""
        return source_file_of(self.python or "")

    def relative_to(self, folder: str) -> OpConfig:
        """Return the same op with its files found from ``folder``."""
        found: dict[str, Any] = {}
        if self.python is not None:
            found["python"] = in_folder(folder, self.python)
        if self.path is not None:
            model = self.model().relative_to(folder)
            found |= {name: getattr(model, name) for name in ("path", "engine", "worker_python", "warmup_examples")}
        else:
            found["worker_python"] = python_in_folder(folder, self.worker_python)
        return self.model_copy(update=found)

    def model(self) -> ModelConfig:
        """Return the model of an op that has one, as the configuration of a model."""
        settings = {name: getattr(self, name) for name in _MODEL_SETTINGS}
        own = self.batching
        batching = BatchingConfig(
            max_batch_size=own.max_batch_size,
            max_queue_delay_ms=own.max_queue_delay_ms,
            timeout_ms=self.timeout_ms,
        )
        return ModelConfig(name=self.name, batching=batching, **settings)


class PipelineConfig(Settings):
    """A graph of ops that is served like a model."""

    name: Name
    """The name in URLs."""

    version: Version = "1"
    """The version in URLs."""

    ops: Annotated[list[OpConfig], Field(min_length=1)]
    """The ops, in any order."""

    outputs: Sources | None = None
    """The answer: the name of an op, a list of names, or a mapping of output to the output of an op. Default: all
    outputs of the only op that no other op reads."""

    max_queue_size: Count = 1024
    """How many requests may be in the pipeline. Further ones are refused at once, with status 503."""

    timeout_ms: Annotated[float, Field(gt=0)] = 60_000.0
    """How long a request may take through the whole pipeline, in ms."""

    paddle_service: Name | None = None
    """The name of the service for clients of Paddle Serving, who call it by POST /NAME/prediction, and by their gRPC.
    Default: they cannot."""

    def graph(self) -> Graph:
        """Return how the ops read each other; raises UsageError if that is wrong."""
        return Graph({op.name: op.inputs for op in self.ops}, self.outputs, self.by_op)

    @property
    def by_op(self) -> list[str]:
        """The names of the ops that get their inputs by op."""
        return [op.name for op in self.ops if op.is_by_op]

    def relative_to(self, folder: str) -> PipelineConfig:
        """Return the same pipeline with its files found from ``folder``."""
        return self.model_copy(update={"ops": [op.relative_to(folder) for op in self.ops]})
