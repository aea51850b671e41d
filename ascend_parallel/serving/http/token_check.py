"""The token, asked for on all routes but those that are open."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from ascend_parallel.errors import UnauthorizedError
from ascend_parallel.serving.service import Service

#: Routes without a token: probes have none, the page asks for it itself, and the description of the routes is public.
OPEN_PATHS = ("/", "/page.css", "/page.js", "/openapi.json", "/v2/health/live", "/v2/health/ready")


class TokenCheck:
    """ASGI middleware that refuses requests without the token."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                self._service.check_token(dict(scope["headers"]))
            except UnauthorizedError as error:
                await self._refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _refuse(self, error: UnauthorizedError, scope: Scope, receive: Receive, send: Send) -> None:
        from .app import answer_error

        response = await answer_error(None, error)
        await response(scope, receive, send)
