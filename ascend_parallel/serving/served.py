"""What a server serves under a name and a version: a model, or a pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import OverloadedError, UsageError
from ascend_parallel.worker.engines import TensorSpec

from .model_stats import ModelStats
from .request import InferRequest


class Served(ABC):
    """One version of a model or a pipeline. All methods run in the event loop's thread.

    Attributes:
        name: its name in the protocol.
        version: likewise.
        stats: what is counted.
        state: "LOADING", "READY", "UNLOADING" or "UNAVAILABLE", as the repository index shows it.
        reason: why it is not ready; "" if it is.
        output_names: its outputs; None where it does not tell them, or is not loaded.
        batch_axes: input or output name -> the axis of its rows, where the configuration or a manifest tells it.
        takes_text: whether inputs may be text.
        part_of: the image model whose part it is, with which it comes and goes; "" for all others.
        shows_workers: whether metrics and pages tell of its workers; of parts that share theirs, one does.
        paddle_service: the name under which Paddle Serving's clients call it; "" if they may not.
    """

    takes_text = False
    part_of = ""
    shows_workers = True
    paddle_service = ""

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.stats = ModelStats(name, version)
        self.state = "UNAVAILABLE"
        self.reason = "not loaded"
        self.output_names: list[str] | None = None
        self.batch_axes: dict[str, int | None] = {}

    # ---- life

    @abstractmethod
    async def load(self) -> None:
        """Build it on all devices; raises what the runner raises."""

    @abstractmethod
    async def unload(self, timeout_s: float) -> None:
        """Answer the requests that it has, for at most ``timeout_s``; then end the workers."""

    @abstractmethod
    def give_up(self) -> None:
        """Fail all requests that it has."""

    # ---- requests

    @abstractmethod
    def add(self, request: InferRequest) -> None:
        """Queue a request.

        Raises:
            ShapeError: its inputs do not fit.
            OverloadedError: the queue is full, or it is not ready.
            WorkerError: no worker is left.
        """

    @abstractmethod
    def cancel(self, request: InferRequest) -> None:
        """Drop a request whose client is gone."""

    @abstractmethod
    def empty_block(self, size_bytes: int) -> Array:
        """Return shared memory in which the workers read inputs in place; raises AscendParallelError, OSError."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return memory for an input: if it is large, where the workers read it without a further copy."""

    def check_outputs(self, names: Sequence[str]) -> None:
        """Refuse outputs that it does not have, if it tells them; raises UsageError."""
        known = self.output_names
        for name in names:
            if known is not None and name not in known:
                raise UsageError(f"the model has no output {name!r}; it has {', '.join(known)}")

    def count_refused(self, error: Exception) -> None:
        """Count a request that was refused before it was queued."""
        self.stats.count_failure("rejected" if isinstance(error, OverloadedError) else "invalid")

    # ---- what it is

    @property
    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it is loaded, and can compute."""

    @abstractmethod
    def worker_stats(self) -> dict[str, Any]:
        """Return what ``ParallelPredictUtils.stats`` does; raises AscendParallelError where nothing can compute."""

    @property
    def parts(self) -> Sequence[Served]:
        """What it is made of, if that is counted apart: the ops of a pipeline."""
        return ()

    @property
    @abstractmethod
    def platform(self) -> str:
        """What computes, as the protocol's metadata has it."""

    @property
    @abstractmethod
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs; none where it does not tell them, or is not loaded."""

    @property
    @abstractmethod
    def outputs(self) -> Sequence[TensorSpec]:
        """The outputs, likewise."""

    @property
    @abstractmethod
    def devices(self) -> list[str]:
        """The devices that it runs on."""

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Batches that are computed at the same time."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many requests wait."""

    @property
    @abstractmethod
    def running(self) -> int:
        """How many tasks the workers have."""

    @property
    @abstractmethod
    def max_rows(self) -> int:
        """Rows of a batch at most; 0 before it is loaded."""
