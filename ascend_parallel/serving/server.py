"""The life of a server: listen, load the models, serve, drain, end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .address import listen
from .config import ServerConfig
from .credentials import read_token
from .http.server import HttpServer
from .images.image_service import ImageService
from .log import configure_logging, logger
from .observed_batcher import Observer
from .otel_setup import make_provider, wants_spans
from .repository import Repository
from .served import Served
from .served_model import make_served_model
from .server_trace import ServerTrace
from .service import Service

if TYPE_CHECKING:
    from .grpc.server import GrpcServer
    from .images.image_model import ImageModel

#: Pictures that will not be complete in time are given up so long before connections are closed.
_LAST_ANSWERS_S = 0.25
#: Returns the configuration as its file has it now; raises UsageError.
ReadConfig = Callable[[], ServerConfig]


def run(config: ServerConfig, read_config: ReadConfig | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        config: what is served; it was checked.
        read_config: returns the configuration anew, when a client has a model loaded again.

    Raises:
        UsageError: an address cannot be listened on.
        WorkerError: a model could not be built.
    """
    import uvloop

    configure_logging(config.log_format)
    uvloop.run(Server(config, read_config or (lambda: config)).run())


class Server:
    """One server."""

    def __init__(self, config: ServerConfig, read_config: ReadConfig) -> None:
        """Prepare; nothing is started."""
        self._config = config
        self._read_config = read_config
        self._observers = make_observers(config.trace)
        images = make_image_models(config, self._observers)
        models = [*make_all_served(config, self._observers), *[part for image in images for part in image.models]]
        self._repository = Repository(models, self._make_models, config.drain_timeout_s)
        self._service = Service(
            self._repository,
            token=read_token(config.token_file) if config.token_file else "",
            max_body_bytes=config.max_body_bytes,
            max_pending_bytes=config.max_pending_bytes,
            allow_control=config.allow_control,
            shared_memory_prefix=config.shared_memory_prefix,
            access_log=config.access_log,
            images=ImageService(images),
        )
        self._end = asyncio.Event()
        self._draining: asyncio.Future[None] | None = None

    def _make_models(self, name: str) -> list[Served]:
        return make_all_served(self._read_config(), self._observers, only=name)

    async def run(self) -> None:
        """Serve until a signal comes."""
        config = self._config
        listener = listen(config.host, config.port)
        http = HttpServer(
            self._service,
            listener,
            max_connections=config.max_connections,
            tls_cert=config.tls_cert,
            tls_key=config.tls_key,
        )
        sides: list[HttpServer | GrpcServer] = [http]
        if config.grpc_port is not None:
            sides.append(self._make_grpc_server(config.grpc_port))
        self._handle_signals()
        for side in sides:
            await side.start()  # before the models are there: it is live, and not ready
        try:
            if await self._load():
                self._announce(sides)
                await self._end.wait()
        finally:
            await self._drain(sides)

    def _make_grpc_server(self, port: int) -> GrpcServer:
        from .grpc.server import GrpcServer

        config = self._config
        return GrpcServer(
            self._service,
            config.host,
            port,
            tls_cert=config.tls_cert,
            tls_key=config.tls_key,
        )

    async def _load(self) -> bool:
        """Load all models; return False where a signal came first."""
        loading = asyncio.ensure_future(self._repository.load_all())
        ending = asyncio.ensure_future(self._end.wait())
        try:
            await asyncio.wait([loading, ending], return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
            return loading.done()
        finally:
            ending.cancel()
            loading.cancel()
            await asyncio.gather(loading, ending, return_exceptions=True)

    def _announce(self, sides: Sequence[HttpServer | GrpcServer]) -> None:
        scheme = "https" if self._config.tls_cert else "http"
        for model in self._repository:
            kind = "pipeline" if model.parts else "model"
            logger.info("%s %s version %s is ready on %s", kind, model.name, model.version, ", ".join(model.devices))
        http, *others = sides
        for grpc in others:
            logger.info("serving gRPC on %s:%d", self._config.host, grpc.port)
        logger.info("serving on %s://%s:%d", scheme, self._config.host, http.port)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._begin_end, number)

    def _begin_end(self, number: int) -> None:
        if self._end.is_set() and number == signal.SIGINT and self._draining is not None:
            logger.warning("ending at once")
            self._draining.cancel()
        self._end.set()

    async def _drain(self, sides: Sequence[HttpServer | GrpcServer]) -> None:
        """Answer what was accepted, for a bounded time, or until a second Ctrl-C; then end everything."""
        end_s = time.monotonic() + self._config.drain_timeout_s
        self._repository.is_draining = True
        logger.info("ending: requests are answered for at most %g s", self._config.drain_timeout_s)
        self._draining = asyncio.ensure_future(self._answer_accepted(sides, end_s))
        await asyncio.wait([self._draining])
        self._service.images.give_up()
        self._repository.give_up()
        await asyncio.gather(*[side.close(0.0) for side in sides])
        await self._repository.close(0.0)

    async def _answer_accepted(self, sides: Sequence[HttpServer | GrpcServer], end_s: float) -> None:
        give_up_s = max(0.0, end_s - time.monotonic() - _LAST_ANSWERS_S)
        asyncio.get_running_loop().call_later(give_up_s, self._service.images.give_up)
        await asyncio.gather(*[side.wait_until_quiet(self._config.drain_timeout_s / 2) for side in sides])
        await asyncio.gather(*[side.close(max(0.0, end_s - time.monotonic())) for side in sides])
        await self._repository.close(max(0.0, end_s - time.monotonic()))
        for observer in self._observers:
            await asyncio.to_thread(observer.close)


def make_observers(trace: str | None) -> list[Observer]:
    """Return who is told of each request: a trace file, OpenTelemetry, or nobody.

    Raises:
        UsageError: the environment asks for OpenTelemetry, and it cannot be had.
    """
    observers: list[Observer] = []
    if trace is not None:
        observers.append(ServerTrace(Path(trace)))
    if wants_spans(os.environ):
        from .spans import Spans

        observers.append(Spans(make_provider(os.environ)))
    return observers


def make_all_served(
    config: ServerConfig, observers: Sequence[Observer] = (), *, only: str | None = None
) -> list[Served]:
    """Return the models and pipelines of a configuration, or those of one name; nothing is started."""
    models = [model for model in config.models if only in (None, model.name)]
    pipelines = [pipeline for pipeline in config.pipelines if only in (None, pipeline.name)]
    served: list[Served] = [make_served_model(model, observers) for model in models]
    if pipelines:
        from ascend_parallel.pipelines.served_pipeline import ServedPipeline

        served += [ServedPipeline(pipeline, observers) for pipeline in pipelines]
    return served


def make_image_models(config: ServerConfig, observers: Sequence[Observer] = ()) -> list[ImageModel]:
    """Return the image models of a configuration; nothing is started."""
    if not config.images:
        return []
    from .images.image_model import make_image_model

    return [make_image_model(image, observers) for image in config.images]
