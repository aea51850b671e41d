"""Errors as HTTP responses, and those that only HTTP has."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from ascend_parallel.errors import AscendParallelError, OverloadedError, RefusedError, UnauthorizedError
from ascend_parallel.serving.error_text import status_of, text_of

#: Characters of an error's text that are sent: a name that the client made up may be part of it.
_MAX_TEXT_CHARS = 4096


class HttpError(AscendParallelError):
    """What Starlette refuses: a route or a method that is not there."""


class HeadTooLargeError(AscendParallelError):
    """The line and the headers of a request are longer than the server takes."""

    http_status = 431


class SlowRequestError(AscendParallelError):
    """A request did not arrive in time."""

    http_status = 408


def write_error(
    transport: Any, error: Exception, default_headers: list[tuple[bytes, bytes]], *, keep_alive: bool = False
) -> int:
    """Write a response in the protocol's form of errors; return its status."""
    status = status_of(error)
    body = error_body(error)
    lines = [STATUS_LINE.get(status) or b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
    for name, value in [*default_headers, *error_headers(error)]:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body))
    lines.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
    transport.write(b"".join([*lines, body]))
    return status


def error_body(error: Exception) -> bytes:
    """Return the protocol's body of an error; with the code of an op that refused the request."""
    body: dict[str, Any] = {"error": short_text_of(error)}
    if isinstance(error, RefusedError):
        body["code"] = error.code
    return json.dumps(body).encode()


def short_text_of(error: Exception) -> str:
    """Return what a client is told of an error, shortened."""
    text = text_of(error)
    return text if len(text) <= _MAX_TEXT_CHARS else f"{text[:_MAX_TEXT_CHARS]}..."


def error_headers(error: Exception) -> list[tuple[bytes, bytes]]:
    """Return the headers that go with an error."""
    if isinstance(error, OverloadedError):
        return [(b"retry-after", str(error.retry_after_s).encode())]
    if isinstance(error, UnauthorizedError):
        return [(b"www-authenticate", b"Bearer")]
    return []
