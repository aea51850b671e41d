"""A replica: the models of a configuration on the devices that Ray gave it, behind the Open Inference Protocol."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

import ascend_parallel
from ascend_parallel.devices.discovery import remember
from ascend_parallel.errors import ConfigError, UsageError, WorkerError
from ascend_parallel.serving.credentials import read_token
from ascend_parallel.serving.http.app import make_app
from ascend_parallel.serving.http.infer_app import InferApp
from ascend_parallel.serving.log import configure_logging, logger
from ascend_parallel.serving.repository import Repository, why_not_ready
from ascend_parallel.serving.server import make_all_served, make_observers

from .cores import limit_to_own_cores
from .devices import given_devices
from .metrics import ReplicaMetrics
from .routes import ReplicaRoutes, ReplicaService
from .settings import check
from .spec import Call, ReplicaSpec, Reply

#: Ray Serve has waited for the requests before it ends a replica.
_DRAIN_TIMEOUT_S = 1.0


class Replica:
    """Holds the models, and answers requests; the deployment "models" is made of this class.

    Its methods run in the event loop that Ray Serve has for them.
    """

    async def __init__(self, spec: ReplicaSpec) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        """Check everything again, here where the devices and files are, and load the models."""
        if spec.version != ascend_parallel.__version__:
            raise UsageError(
                f"this host has ascend-parallel {ascend_parallel.__version__}, and the application was built with "
                f"{spec.version}: install the same"
            )
        configure_logging("text")
        sys.path.extend(path for path in spec.import_path if path not in sys.path)
        limit_to_own_cores()
        self._remembering = contextlib.ExitStack()  # for all that is served, as long as this process lives
        self._remembering.enter_context(remember(given_devices()))
        config, problems = check(spec.data, spec.folder)
        if config is None:
            raise ConfigError([problem.message for problem in problems])
        self._repository = Repository(make_all_served(config, make_observers(None)), lambda _: [], 0.0)
        service = ReplicaService(
            self._repository,
            token=read_token(config.token_file) if config.token_file else "",
            max_body_bytes=config.max_body_bytes,
            max_pending_bytes=config.max_pending_bytes,
        )
        self._app = InferApp(service, ReplicaRoutes(make_app(service)))
        await self._repository.load_all()
        for model in self._repository:
            logger.info("model %s version %s is ready", model.name, model.version)
        self._metrics = asyncio.ensure_future(ReplicaMetrics(self._repository).run())

    async def answer(self, call: Call) -> Reply:
        """Answer a request that the ingress has received."""
        scope = {
            "type": "http",
            "http_version": "1.1",
            "scheme": "http",
            "method": call.method,
            "path": call.path,
            "raw_path": call.raw_path,
            "root_path": call.root_path,
            "query_string": call.query,
            "headers": call.headers,
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": call.body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        try:
            await self._app(scope, receive, send)
        except Exception:
            if not sent:  # else it was logged, and answered with 500
                raise
        start, *parts = sent
        return Reply(start["status"], list(start["headers"]), b"".join([part.get("body", b"") for part in parts]))

    async def __call__(self, request: Request) -> Response:
        """Answer a request that Ray Serve's proxy has received, where there is no ingress."""
        return _AppResponse(self._app)

    async def check_health(self) -> None:
        """Raise WorkerError if no model can compute: then Ray Serve replaces this replica."""
        models = list(self._repository)
        if models and not any(model.is_ready for model in models):
            reasons = "; ".join(
                f"model {model.name!r} version {model.version} {why_not_ready(model)}" for model in models
            )
            raise WorkerError(f"no model of this replica is ready: {reasons}")

    async def __del__(self) -> None:
        """End the workers; Ray Serve awaits it once the requests are answered."""
        if hasattr(self, "_metrics"):
            self._metrics.cancel()
        if hasattr(self, "_repository"):
            await self._repository.close(_DRAIN_TIMEOUT_S)


class _AppResponse(Response):
    """A response that an ASGI app makes."""

    def __init__(self, app: InferApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer."""
        await self._app(scope, receive, send)
