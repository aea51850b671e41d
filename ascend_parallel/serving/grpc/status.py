"""How errors are told in gRPC: a code, a sentence, and when to try again."""

from __future__ import annotations

from grpc import StatusCode

from ascend_parallel.errors import AscendParallelError, OverloadedError, RefusedError
from ascend_parallel.serving.error_text import text_of

#: The code that goes with an error, by its HTTP status. A full queue is UNAVAILABLE, on which clients try again.
CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    422: StatusCode.INVALID_ARGUMENT,
    413: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
#: gRPC sends the sentence as a header, where a character may take nine bytes; clients take 8 KiB of headers.
_MAX_CHARS = 800
#: What tells clients of gRPC when to try again, in ms.
_RETRY_AFTER = "grpc-retry-pushback-ms"
#: What tells them the code of an op that refused the request.
_ERROR_CODE = "error-code"

Metadata = tuple[tuple[str, str], ...]


def describe_error(error: Exception) -> tuple[StatusCode, str, Metadata]:
    """Return (code, sentence, trailing metadata) of an error."""
    if not isinstance(error, AscendParallelError):
        return StatusCode.INTERNAL, sentence_of(error), ()
    metadata: Metadata = ()
    if isinstance(error, OverloadedError):
        metadata = ((_RETRY_AFTER, str(error.retry_after_s * 1000)),)
    elif isinstance(error, RefusedError):
        metadata = ((_ERROR_CODE, str(error.code)),)
    return CODES[error.http_status], sentence_of(error), metadata


def sentence_of(error: Exception) -> str:
    """Return what a client is told of an error, shortened to what a header can hold."""
    text = text_of(error).encode(errors="replace").decode()
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}..."
