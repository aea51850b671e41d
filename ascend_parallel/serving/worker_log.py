"""What the log says of worker processes that end, busy or idle, and of those that take their places."""

from __future__ import annotations

import contextlib
import logging
from asyncio import AbstractEventLoop
from collections.abc import Mapping

from ascend_parallel.backends.backend import WorkerChange

from .log import logger
from .log_limit import LogLimit

#: Lines of one kind within a window; further ones are counted.
MAX_LOGGED = 5
WINDOW_S = 60.0
_FAILED, _READY = "failed", "became ready again"


class WorkerLog:
    """The workers of one version of a model."""

    def __init__(self, model: str, version: str, loop: AbstractEventLoop) -> None:
        self._model = model
        self._version = version
        self._loop = loop
        self._limit = LogLimit(loop, MAX_LOGGED, WINDOW_S, self._tell_more)

    def note(self, change: WorkerChange) -> None:
        """Log a change; called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._log, change)

    def _log(self, change: WorkerChange) -> None:
        failure = change.failure
        worker = f"worker {change.worker} of model {self._model} version {self._version}"
        fields = {"worker": change.worker}
        if failure is None:
            if self._limit.allows(_READY):
                self._write(logging.INFO, f"{worker} is ready again", fields)
        elif change.is_out:
            text = f"{worker} failed more often than max_restarts allows, and is not replaced: {failure}"
            self._write(logging.ERROR, text, fields)
        elif self._limit.allows(_FAILED):
            self._write(logging.WARNING, f"{worker} failed and is replaced: {failure}", fields)

    def _tell_more(self, kind: str, count: int) -> None:
        text = f"workers of model {self._model} version {self._version} {kind} {count} more times"
        self._write(logging.WARNING, f"{text} within {WINDOW_S:.0f} s", {"count": count})

    def _write(self, level: int, text: str, fields: Mapping[str, object]) -> None:
        told = {"model": self._model, "version": self._version, **fields}
        logger.log(level, "%s", text, extra={"fields": told})
