"""What the log says of requests that fail: each once, with who and why; of many alike, the first few and a count."""

from __future__ import annotations

import secrets
from asyncio import AbstractEventLoop

from ascend_parallel.errors import EngineError, WorkerError

from .error_text import status_of
from .log import logger
from .log_limit import LogLimit
from .request import InferRequest

#: Failures of one reason that are logged one by one within a window; further ones are counted.
MAX_LOGGED = 5
WINDOW_S = 10.0


class FailureLog:
    """The failures of one version of a model."""

    def __init__(self, model: str, version: str, loop: AbstractEventLoop) -> None:
        self._model = model
        self._version = version
        self._limit = LogLimit(loop, MAX_LOGGED, WINDOW_S, self._tell_more)

    def add(self, request: InferRequest, reason: str, error: Exception) -> None:
        """Log why a request failed, unless enough alike were logged in the last seconds.

        Args:
            request: it gets an id if it has none, which the response names too.
            reason: the label of the failure in the metrics.
            error: what it failed with.
        """
        if not self._limit.allows(reason):
            return
        request.id = request.id or make_request_id()
        fields: dict[str, object] = {"request_id": request.id, "status": status_of(error)}
        if isinstance(error, WorkerError):
            fields["worker"] = error.device
        if isinstance(error, EngineError) and error.remote_traceback:
            fields["traceback"] = error.remote_traceback
        text = f"request {request.id} for model {self._model} version {self._version} failed ({reason})"
        self._warn(f"{text}: {type(error).__name__}: {error}", reason, fields)

    def _tell_more(self, reason: str, count: int) -> None:
        text = f"{count} more requests for model {self._model} version {self._version} failed ({reason})"
        self._warn(f"{text} within {WINDOW_S:.0f} s", reason, {"count": count})

    def _warn(self, text: str, reason: str, fields: dict[str, object]) -> None:
        told = {"model": self._model, "version": self._version, "reason": reason, **fields}
        logger.warning("%s", text, extra={"fields": told})


def make_request_id() -> str:
    """Return an id for a request that has none."""
    return secrets.token_hex(8)
