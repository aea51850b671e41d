"""The token, asked for on all routes but those that are open."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ascend_parallel.errors import UnauthorizedError
from ascend_parallel.serving.service import Service

from .image_routes import PICTURES_PATH
from .page import FILES

#: Routes without a token: the pages' files, probes, which have none, and the public description of the routes.
_OPEN_PATHS = (*FILES, "/openapi.json", "/v2/health/live", "/v2/health/ready")


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(PICTURES_PATH)


class TokenCheck:
    """ASGI middleware that refuses requests without the token."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] == "http" and not _is_open(scope["path"]):
            try:
                self._service.check_token(dict(scope["headers"]))
            except UnauthorizedError as error:
                await self._refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _refuse(self, error: UnauthorizedError, scope: Scope, receive: Receive, send: Send) -> None:
        from .app import answer_error

        response = await answer_error(Request(scope), error)
        await response(scope, receive, send)
