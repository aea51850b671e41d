"""Bodies of requests and responses that are JSON."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from ascend_parallel.errors import TooLargeError, UsageError

#: Bytes of the body of a request that is no infer request, at most.
_MAX_BODY_BYTES = 1 << 20


def to_json(content: Any, status: int = 200) -> Response:
    """Return a response with JSON."""
    return Response(json.dumps(content), status, media_type="application/json")


async def read_body(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request, {} where it has no body; raises UsageError and TooLargeError."""
    text = b""
    async for part in request.stream():
        text += part
        if len(text) > _MAX_BODY_BYTES:
            raise TooLargeError(f"the body is larger than {_MAX_BODY_BYTES} bytes")
    if not text.strip():
        return {}
    try:
        body = from_json(text)
    except ValueError as error:
        raise UsageError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise UsageError("the body is no JSON object")
    return body
