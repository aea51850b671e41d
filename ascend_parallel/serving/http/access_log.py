"""The access log of the routes that the ASGI app answers."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.utils import get_client_addr

from ascend_parallel.serving.log import log_access

from .request_id import read_request_id


class AccessLog:
    """ASGI middleware that logs each request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and log it."""
        began_s = time.monotonic()
        status = 500  # where the app raises, uvicorn answers so

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            query = scope["query_string"].decode("latin-1")
            path = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
            request_id = read_request_id(dict(scope["headers"]))
            client = get_client_addr(scope)  # type: ignore[arg-type]
            log_access(client, f"{scope['method']} {path}", status, time.monotonic() - began_s, request_id)
