"""The ingress: takes requests from Ray Serve's proxies, and sends each to a replica, and to another if that is lost.

Ray Serve itself answers a request with 500 when the replica dies that computes it. A predict is pure, so that it can be
computed again.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.requests import Request
from starlette.responses import Response

from ascend_parallel.errors import AscendParallelError, DeadlineError, OverloadedError, WorkerDied
from ascend_parallel.serving.http.app import error_response
from ascend_parallel.serving.http.body import too_large
from ascend_parallel.serving.http.infer_app import own_path
from ascend_parallel.serving.http.infer_cycle import find_infer_route
from ascend_parallel.serving.log import configure_logging, logger
from ascend_parallel.serving.pending_bytes import PendingBytes

from .spec import Call, IngressSpec, Reply

#: A replica is lost, or its host: the request may have been computed, or not.
_LOST = (RayActorError, NodeDiedError, WorkerCrashedError, ObjectLostError)
#: How long all routes but the infer route may take.
_ROUTE_TIMEOUT_S = 10.0
#: The replica keeps the time limit of a model; it gets so much longer to say so.
_GRACE_S = 1.0


class Ingress:
    """Forwards requests; the deployment "ingress" is made of this class."""

    def __init__(self, models: Any, spec: IngressSpec) -> None:
        """Take the handle of the deployment of the models."""
        configure_logging("text")
        self._answer = models.options(method_name="answer")
        self._spec = spec
        self._pending = PendingBytes(spec.max_pending_bytes)

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        counted = [0]
        try:
            call = await self._read(request, counted)
            reply = await self._forward(call, self._timeout_s(request))
        except AscendParallelError as error:
            return error_response(error)
        except Exception as error:  # a fault of ours, or of Ray's
            logger.exception("a request could not be forwarded")
            return error_response(error)
        finally:
            self._pending.remove(counted[0])
        response = Response(reply.body, reply.status)
        response.raw_headers = reply.headers
        return response

    async def _read(self, request: Request, counted: list[int]) -> Call:
        """Return the request with its whole body, which is counted; raises TooLargeError and OverloadedError."""
        parts = []
        async for part in request.stream():
            if counted[0] + len(part) > self._spec.max_body_bytes:
                raise too_large(self._spec.max_body_bytes)
            self._pending.add(len(part))
            counted[0] += len(part)
            if part:
                parts.append(part)
        scope = request.scope
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        if parts:
            headers.append((b"content-length", b"%d" % counted[0]))
        return Call(
            method=scope["method"],
            path=scope["path"],
            raw_path=scope.get("raw_path") or b"",
            root_path=scope.get("root_path", ""),
            query=scope["query_string"],
            headers=headers,
            body=parts[0] if len(parts) == 1 else b"".join(parts),
        )

    def _timeout_s(self, request: Request) -> float:
        is_infer = request.method == "POST" and find_infer_route(own_path(request.scope)) is not None
        return self._spec.timeout_s + _GRACE_S if is_infer else _ROUTE_TIMEOUT_S

    async def _forward(self, call: Call, timeout_s: float) -> Reply:
        """Return the reply of a replica.

        Raises:
            DeadlineError: there was none in time; maybe there is no replica.
            OverloadedError: Ray Serve takes no more requests.
            WorkerDied: several replicas were lost while they had the request.
        """
        try:
            return await asyncio.wait_for(self._try_replicas(call), timeout_s)
        except asyncio.TimeoutError:
            raise DeadlineError(f"no replica has answered in {timeout_s:g} s") from None

    async def _try_replicas(self, call: Call) -> Reply:
        for _ in range(self._spec.max_retries + 1):
            response = self._answer.remote(call)
            try:
                reply: Reply = await response
                return reply
            except asyncio.CancelledError:  # the client is gone, or it is too late
                response.cancel()
                raise
            except (BackPressureError, DeploymentUnavailableError) as error:
                raise OverloadedError(str(error)) from None
            except _LOST as error:
                logger.warning("a replica was lost, and a request goes to another: %s", type(error).__name__)
        raise WorkerDied(f"{self._spec.max_retries + 1} replicas were lost while they had the request")
