"""The ASGI app: all routes but the infer route, which the protocol class answers (see protocol.py)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ascend_parallel.errors import AscendParallelError, NotFoundError, OverloadedError, UsageError
from ascend_parallel.serving.error_text import status_of
from ascend_parallel.serving.log import logger
from ascend_parallel.serving.repository import why_not_ready
from ascend_parallel.serving.rest.metadata import (
    describe_config,
    describe_index,
    describe_model,
    describe_server,
    describe_stats,
)
from ascend_parallel.serving.served import Served
from ascend_parallel.serving.service import Service

from .access_log import AccessLog
from .bodies import read_body, to_json
from .errors import HttpError, error_body, error_headers
from .image_routes import ImageRoutes
from .openai_errors import openai_response, wants_openai_errors
from .openapi import describe_routes
from .paddle_route import paddle_route
from .page import describe_status, page_routes
from .shared_memory_routes import shared_memory_routes
from .token_check import TokenCheck

Handler = Callable[[Request], Awaitable[Response]]


class Routes:
    """The routes of the Open Inference Protocol, and of Triton's extensions to it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._repository = service.repository

    def table(self) -> list[Route]:
        """Return all routes."""
        return [
            Route("/v2", self.server, methods=["GET"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
            Route("/v2/models/stats", self.all_stats, methods=["GET"]),
            *page_routes(),
            *ImageRoutes(self._service.images).table(),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            Route("/status", self.status, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self.unload, methods=["POST"]),
            *shared_memory_routes(self._service),
            *self._model_routes("/v2/models/{model}"),
            *self._model_routes("/v2/models/{model}/versions/{version}"),
            paddle_route(self._service),  # the last one: it stands for any other path of two parts
        ]

    def _model_routes(self, path: str) -> list[Route]:
        return [
            Route(path, self.model, methods=["GET"]),
            Route(f"{path}/ready", self.model_ready, methods=["GET"]),
            Route(f"{path}/config", self.model_config, methods=["GET"]),
            Route(f"{path}/stats", self.model_stats, methods=["GET"]),
            Route(f"{path}/infer", self.infer, methods=["POST"]),
        ]

    # ---- the server

    async def server(self, request: Request) -> Response:
        """Describe the server."""
        return to_json(describe_server(self._service.extensions))

    async def live(self, request: Request) -> Response:
        """Tell that the event loop runs: otherwise there is no answer."""
        return Response()

    async def ready(self, request: Request) -> Response:
        """Tell whether all models can compute."""
        if self._repository.is_ready:
            return Response()
        raise OverloadedError("the server is about to end" if self._repository.is_draining else self._not_ready())

    def _not_ready(self) -> str:
        reasons = [
            f"model {m.name!r} version {m.version} {why_not_ready(m)}" for m in self._repository if not m.is_ready
        ]
        return "; ".join(reasons) or "no model is ready"

    async def status(self, request: Request) -> Response:
        """Return the figures that the page shows."""
        return to_json(describe_status(self._repository, self._service.images))

    async def metrics(self, request: Request) -> Response:
        """Return the metrics for Prometheus."""
        from ascend_parallel.serving.metrics import write_metrics

        text, content_type = write_metrics(self._repository, self._service.images, request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    async def openapi(self, request: Request) -> Response:
        """Describe all routes."""
        return to_json(describe_routes(has_token=self._service.has_token))

    # ---- models

    def _find(self, request: Request) -> Served:
        return self._repository.find(request.path_params["model"], request.path_params.get("version", ""))

    async def model(self, request: Request) -> Response:
        """Describe a model."""
        model = self._find(request)
        return to_json(describe_model(model, self._repository.versions(model.name)))

    async def model_ready(self, request: Request) -> Response:
        """Tell whether a model can compute."""
        model = self._find(request)
        if model.is_ready and not self._repository.is_draining:
            return Response()
        reason = "is not ready: the server is about to end" if self._repository.is_draining else why_not_ready(model)
        raise OverloadedError(f"model {model.name!r} version {model.version} {reason}")

    async def model_config(self, request: Request) -> Response:
        """Return the configuration of a model, as Triton's clients ask for it."""
        return to_json(describe_config(self._find(request)))

    async def model_stats(self, request: Request) -> Response:
        """Return the statistics of a model."""
        return to_json(describe_stats([self._find(request)]))

    async def all_stats(self, request: Request) -> Response:
        """Return the statistics of all models."""
        return to_json(describe_stats(self._repository))

    async def infer(self, request: Request) -> Response:
        """Refuse a request that the protocol class did not take: its target is no plain path.

        The route is here so that other methods than POST get a 405.
        """
        raise NotFoundError(f"POST to the path {request.url.path} alone, without a scheme or a host before it")

    # ---- the repository

    async def index(self, request: Request) -> Response:
        """List the models."""
        only_ready = (await read_body(request)).get("ready", False)
        if not isinstance(only_ready, bool):
            raise UsageError(f"ready is {only_ready!r:.200}; expected true or false")
        return to_json(describe_index(self._repository, only_ready=only_ready))

    async def load(self, request: Request) -> Response:
        """Load a model anew."""
        body = await read_body(request)
        self._service.check_control()
        if body.get("parameters"):
            raise UsageError("load takes no parameters: a model is loaded as the server's configuration has it")
        await self._repository.load(request.path_params["model"])
        return to_json({})

    async def unload(self, request: Request) -> Response:
        """Take a model out."""
        await read_body(request)
        self._service.check_control()
        await self._repository.unload(request.path_params["model"])
        return to_json({})


def make_app(service: Service) -> Starlette:
    """Return the app."""
    middleware = [Middleware(TokenCheck, service=service)]
    if service.access_log:
        middleware.insert(0, Middleware(AccessLog))
    return Starlette(
        middleware=middleware,
        routes=Routes(service).table(),
        exception_handlers={
            AscendParallelError: answer_error,
            HTTPException: _answer_http_error,
            Exception: _answer_fault,
        },
    )


async def answer_error(request: Request, error: Exception) -> Response:
    """Return the response to a request that failed with an error of ours."""
    assert isinstance(error, AscendParallelError)
    if wants_openai_errors(request):
        return openai_response(error)
    return error_response(error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"there is no route {request.url.path}" if error.status_code == 404 else error.detail
    if wants_openai_errors(request):
        return openai_response(HttpError(text), error.status_code, error.headers)
    return Response(error_body(HttpError(text)), error.status_code, error.headers, "application/json")


async def _answer_fault(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    if wants_openai_errors(request):
        return openai_response(error)
    return error_response(error)


def error_response(error: Exception) -> Response:
    """Return the response to a request that failed, in the protocol's form; of a fault of ours, only its kind."""
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), status_of(error), headers, "application/json")
