"""The routes of a replica: those of a server, without those that only make sense where there is one."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from ascend_parallel.errors import NotFoundError
from ascend_parallel.serving.http.app import error_response
from ascend_parallel.serving.http.infer_app import own_path
from ascend_parallel.serving.service import Service

#: What tells the figures of one server, or changes what it serves.
_OF_ONE_SERVER = re.compile(
    rb"/|/page\.(?:css|js)|/images.*|/v1/.*|/status|/metrics|/v2/models/(?:.*/)?stats"
    rb"|/v2/repository/models/.*|/v2/systemsharedmemory.*"
)


class ReplicaService(Service):
    """A server without the extensions that need one server only."""

    @property
    def extensions(self) -> list[str]:
        """The extensions of the protocol that all replicas have in common."""
        return ["binary_tensor_data", "model_configuration"]


class ReplicaRoutes:
    """Refuses the routes of one server; an app has the others.

    Each request reaches another replica, so that counters would jump, and a model would be unloaded in one replica.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = own_path(scope)
        if not _OF_ONE_SERVER.fullmatch(path):
            await self._app(scope, receive, send)
            return
        error = NotFoundError(
            f"there is no route {path.decode('latin-1')} with Ray Serve: each replica has its own figures and models; "
            "Ray's dashboard and metrics show those of all"
        )
        await error_response(error)(scope, receive, send)
