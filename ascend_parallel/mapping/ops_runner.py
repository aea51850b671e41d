"""The pipeline of ops that a run's files go through: ``pipeline:CONFIG.yml``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ascend_parallel.checks import check_file
from ascend_parallel.errors import UsageError
from ascend_parallel.worker.engines.callable import load_object

from .settings import MapSettings
from .spec import check_function_name

if TYPE_CHECKING:
    from ascend_parallel.pipelines.config import PipelineConfig
    from ascend_parallel.pipelines.pipeline import Pipeline

__all__ = ["OpsRunner", "read_request"]

#: The settings that a pipeline of ops takes; each op has its own devices, options and limits in the file.
_TAKEN = (
    *("pipeline", "name", "preprocess", "postprocess", "input_dir", "max_ahead"),
    *("output_dir", "output_format", "resume", "retry_failed"),
)
#: Requests wait in the pipeline because this process puts them there: that must not make them late. In ms: 30 years.
_NO_LIMIT_MS = 1e12


class OpsRunner:
    """A pipeline of ops, with the functions around it.

    Attributes:
        pipeline: not built yet.
        told: the settings that results depend on.
        devices: the devices of all ops, as text.
        workers: how many workers the ops have.
        max_in_flight: how many files keep all workers busy, each with a batch and the next one.
    """

    def __init__(self, settings: MapSettings) -> None:
        """Check the settings; nothing is started. Raises UsageError."""
        _refuse_others(settings)
        path = os.path.abspath(settings.pipeline.partition(":")[2])
        functions = {"preprocess": settings.preprocess, "postprocess": settings.postprocess}
        self._preprocess, self._postprocess = (_load(name, text) for name, text in functions.items())
        self.pipeline = _open(path, settings.name)
        self.told = {"pipeline": f"pipeline:{path}", "name": settings.name, **functions}
        self._describe(self.pipeline.config)

    def _describe(self, config: PipelineConfig) -> None:
        from ascend_parallel.pipelines.served_pipeline import ServedPipeline

        served = ServedPipeline(config)
        self.devices = served.devices
        self.workers = served.capacity
        self.max_in_flight = 2 * sum(
            part.capacity * op.batching.max_batch_size for part, op in zip(served.parts, config.ops, strict=True)
        )
        self.pipeline.config = config.model_copy(
            update={"timeout_ms": _NO_LIMIT_MS, "max_queue_size": self.max_in_flight}
        )

    def __enter__(self) -> OpsRunner:
        self.pipeline.build()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pipeline.close()

    def read(self, path: str) -> dict[str, Any]:
        """Return the inputs of a file's request; raises whatever goes wrong with it."""
        if self._preprocess is None:
            return read_request(path)
        inputs = self._preprocess(path)
        if not isinstance(inputs, Mapping):
            raise TypeError(
                f"preprocess returned {type(inputs).__name__}; expected a dict of the inputs of the pipeline's request"
            )
        return dict(inputs)

    def finish(self, outputs: dict[str, Any]) -> Any:
        """Return a file's result."""
        return _with_lists(outputs) if self._postprocess is None else self._postprocess(outputs)


def read_request(path: str) -> dict[str, Any]:
    """Return the inputs that a file stands for: of an .npz file its arrays, else ``path`` and ``data``."""
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    data = np.load(path, allow_pickle=False) if path.endswith(".npy") else Path(path).read_bytes()
    return {"path": path, "data": data}


def _refuse_others(settings: MapSettings) -> None:
    """Refuse what an op has for itself; raises UsageError."""
    for field in fields(settings):
        given = getattr(settings, field.name)
        if field.name not in _TAKEN and given and given != field.default:
            raise UsageError(
                f"{field.name} does not go with {settings.pipeline}: each op has devices, batches and limits of its "
                f"own in that file; leave {field.name} out"
            )


def _open(path: str, name: str | None) -> Pipeline:
    from ascend_parallel.pipelines.pipeline import Pipeline

    check_file("configuration file", path, " for the pipeline")
    return Pipeline.from_yaml(path, name=name)


def _load(name: str, text: str | None) -> Callable[[Any], Any] | None:
    """Return the function of ``module:function``; raises UsageError."""
    check_function_name(name, text)
    if text is None:
        return None
    try:
        function: Callable[[Any], Any] = load_object(text)
    except Exception as error:
        raise UsageError(f"{name} {text} cannot be loaded: {type(error).__name__}: {error}") from error
    return function


def _with_lists(value: Any) -> Any:
    """Return outputs with lists in place of arrays of text, which no array file holds."""
    if isinstance(value, dict):
        return {name: _with_lists(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_lists(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) and value.dtype.hasobject else value
