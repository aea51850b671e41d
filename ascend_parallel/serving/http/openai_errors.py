"""Errors of the routes under /v1, in the form of OpenAI's protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from ascend_parallel.errors import AscendParallelError, DeadlineError, OverloadedError, UnauthorizedError, WorkerTimeout
from ascend_parallel.serving.error_text import text_of
from ascend_parallel.serving.images.errors import FieldError, UnknownModelError

from .errors import MAX_TEXT_CHARS, error_headers

_PREFIX = "/v1/"
#: Codes of errors that have none themselves; OpenAI's own where it has one.
_CODES: dict[type[Exception], str] = {
    UnauthorizedError: "invalid_api_key",
    OverloadedError: "server_overloaded",
    DeadlineError: "timeout",
    WorkerTimeout: "timeout",
}


def is_openai_path(path: str) -> bool:
    """Whether the errors of a route have OpenAI's form."""
    return path.startswith(_PREFIX)


def describe_error(error: Exception, status: int) -> dict[str, dict[str, str | None]]:
    """Return the error as JSON has it."""
    text = text_of(error)
    param, code = None, _CODES.get(type(error))
    if isinstance(error, (FieldError, UnknownModelError)):
        param, code = error.param, error.code or None
    kind = "invalid_request_error" if status < 500 else "server_error"
    message = text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]}..."
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error."""
    return error.http_status if isinstance(error, AscendParallelError) else 500


def openai_response(
    error: Exception, status: int | None = None, more_headers: Mapping[str, str] | None = None
) -> Response:
    """Return the response to a request that failed.

    A client that tries again by itself is told not to where that would only take as long again: OpenAI's do.
    """
    status = status or status_of(error)
    headers = {**(more_headers or {}), **{name.decode(): value.decode() for name, value in error_headers(error)}}
    if isinstance(error, (DeadlineError, WorkerTimeout)):
        headers["x-should-retry"] = "false"
    return Response(json.dumps(describe_error(error, status)), status, headers, "application/json")


def wants_openai_errors(request: Request) -> bool:
    """Whether a request is for a route whose errors have OpenAI's form."""
    return is_openai_path(request.url.path)
