"""The health service of gRPC, which load balancers and Kubernetes ask."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from ascend_parallel.errors import NotFoundError, OverloadedError
from ascend_parallel.serving.repository import Repository

from .messages import INFERENCE, HealthCheckRequest, HealthCheckResponse, parse, serialize

#: How often readiness is looked at for a client that watches it. Workers that die or come back tell nobody here.
_LOOK_S = 1.0


class Health:
    """The health of the server: it is serving while it is ready, as over HTTP."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._end = asyncio.Event()

    def end(self) -> None:
        """Tell all clients that watch, and end their RPCs."""
        self._end.set()

    async def check(self, data: bytes, context: Any) -> bytes:
        """Return the health now; raises NotFoundError for a service that is not known."""
        request = parse(HealthCheckRequest, data)
        status = self._status(request.service)
        if status == "SERVICE_UNKNOWN":
            raise NotFoundError(f"there is no service {request.service!r:.200}; expected '' or '{INFERENCE}'")
        return serialize(HealthCheckResponse, {"status": status})

    async def watch(self, data: bytes, context: Any) -> None:
        """Send the health now, and when it changes; raises OverloadedError at the server's end."""
        service = parse(HealthCheckRequest, data).service
        last = ""
        while True:
            is_end = self._end.is_set()
            status = self._status(service)
            if status != last:
                last = status
                await context.write(serialize(HealthCheckResponse, {"status": status}))
            if is_end:
                raise OverloadedError("the server is about to end")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._end.wait(), _LOOK_S)

    def _status(self, service: str) -> str:
        if service not in ("", INFERENCE):
            return "SERVICE_UNKNOWN"
        return "SERVING" if self._repository.is_ready else "NOT_SERVING"
