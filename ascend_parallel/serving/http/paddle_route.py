"""The route of Paddle Serving's clients: POST /SERVICE/METHOD."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from ascend_parallel.pipelines.config import RESERVED_SERVICES
from ascend_parallel.serving.paddle.call import Caller, answer, has_services
from ascend_parallel.serving.paddle.request import parse_json
from ascend_parallel.serving.service import Service

from .bodies import to_json
from .body import Body
from .client_watch import ClientGoneError, until_disconnected
from .request_id import read_request_id


class _ServiceRoute(Route):
    """A route that is none where there are no services, so that it hides no error of other routes."""

    def __init__(self, service: Service, endpoint: Any) -> None:
        super().__init__("/{service}/{method}", endpoint, methods=["POST"])
        self._repository = service.repository

    def matches(self, scope: Any) -> tuple[Match, Any]:
        """Say whether the route is meant by a request."""
        match, found = super().matches(scope)
        is_meant = match == Match.FULL and found["path_params"]["service"] not in RESERVED_SERVICES
        return (match, found) if is_meant and has_services(self._repository) else (Match.NONE, {})


def paddle_route(service: Service) -> Route:
    """Return the route."""

    async def infer(request: Request) -> Response:
        """Answer a request; the method is any."""
        headers = dict(request.scope["headers"])
        body = Body(headers, service.max_body_bytes, service.pending)
        try:
            message = parse_json(await _read(request, body))
            caller = Caller(read_request_id(headers), trace_context=headers.get(b"traceparent", b"").decode("latin-1"))
            call = answer(service.repository, message, request.path_params["service"], caller)
            found = await until_disconnected(request.receive, call)
        except ClientGoneError:
            return Response()  # which nobody reads
        finally:
            body.clear()
        return to_json(found.to_fields())

    return _ServiceRoute(service, infer)


async def _read(request: Request, body: Body) -> bytes:
    """Return the body; raises UsageError, TooLargeError and OverloadedError."""
    body.check_headers()
    async for part in request.stream():
        body.add(part)
    return body.finish()[0]
