"""The infer route as an ASGI app, for servers that are not ours, such as Ray Serve's."""

from __future__ import annotations

import asyncio
import functools
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ascend_parallel.errors import AscendParallelError
from ascend_parallel.serving.awaiting import Outputs, settle, wait_for_outputs
from ascend_parallel.serving.log import logger
from ascend_parallel.serving.rest.infer_answer import Answer
from ascend_parallel.serving.served import Served
from ascend_parallel.serving.service import Service

from .app import error_response
from .body import Body
from .infer_cycle import find_infer_route
from .infer_steps import make_answer, prepare_body, read_request

Headers = dict[bytes, bytes]


class InferApp:
    """Answers the infer route, and leaves all other requests to another app.

    The protocol class does the same for our own server, and is quicker: see ``protocol.py``.
    """

    def __init__(self, service: Service, app: ASGIApp) -> None:
        self._service = service
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        route = find_infer_route(own_path(scope)) if is_post else None
        if route is None:
            await self._app(scope, receive, send)
        else:
            response = await self._respond(*route, dict(scope["headers"]), receive)
            await response(scope, receive, send)

    async def _respond(self, name: str, version: str, headers: Headers, receive: Receive) -> Response:
        body = Body(headers, self._service.max_body_bytes, self._service.pending)
        try:
            self._service.check_token(headers)
            prepare_body(self._service, headers, body, name, version)
            await _receive(body, receive)
            model = self._service.repository.find(name, version)
            return _to_response(await self._infer(model, headers, body))
        except AscendParallelError as error:
            return error_response(error)
        except Exception as error:  # a fault of ours
            logger.exception("a request for model %s failed", name)
            return error_response(error)
        finally:
            body.clear()

    async def _infer(self, model: Served, headers: Headers, body: Body) -> Answer:
        future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        try:
            head, request = read_request(self._service, model, headers, body, functools.partial(settle, future))
            model.add(request)
        except AscendParallelError as error:
            model.count_refused(error)
            raise
        return make_answer(self._service, model, head, await wait_for_outputs(model, request, future))


def own_path(scope: Scope) -> bytes:
    """Return the path of a request as it was sent, without the prefix at which the app is mounted."""
    path = scope.get("raw_path") or quote(scope["path"]).encode()
    prefix = scope.get("root_path", "").encode()
    return path[len(prefix) :] if prefix and path.startswith(prefix) else path


async def _receive(body: Body, receive: Receive) -> None:
    """Take the body; raises TooLargeError and OverloadedError."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        body.add(message.get("body", b""))
        more = message.get("more_body", False)


def _to_response(answer: Answer) -> Response:
    if not answer.tensors:
        return Response(answer.head, media_type="application/json")
    return Response(
        b"".join([answer.head, *[tensor.tobytes() for tensor in answer.tensors]]),
        headers={"inference-header-content-length": str(len(answer.head))},
        media_type="application/octet-stream",
    )
