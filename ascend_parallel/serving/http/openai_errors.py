"""Errors of the routes under /v1, in the form of OpenAI's protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from ascend_parallel.errors import DeadlineError, OverloadedError, UnauthorizedError, WorkerTimeout
from ascend_parallel.serving.error_text import status_of
from ascend_parallel.serving.images.errors import FieldError, UnknownModelError

from .errors import error_headers, short_text_of

_PREFIX = "/v1/"
#: Codes of errors that have none themselves; OpenAI's own where it has one.
_CODES: dict[type[Exception], str] = {
    UnauthorizedError: "invalid_api_key",
    OverloadedError: "server_overloaded",
    DeadlineError: "timeout",
    WorkerTimeout: "timeout",
}


def describe_error(error: Exception, status: int) -> dict[str, dict[str, str | None]]:
    """Return the error as JSON has it."""
    param, code = None, _CODES.get(type(error))
    if isinstance(error, (FieldError, UnknownModelError)):
        param, code = error.param, error.code or None
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": short_text_of(error), "type": kind, "param": param, "code": code}}


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
    return request.url.path.startswith(_PREFIX)
