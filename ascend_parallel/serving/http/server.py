"""The HTTP server: uvicorn with our protocol class, started and ended by :mod:`ascend_parallel.serving.server`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from ascend_parallel.serving.service import Service

from .app import make_app
from .protocol import InferProtocol

#: How often slow clients are looked for.
_SWEEP_S = 5.0
#: The listeners are closed when no request has come for so long: then load balancers know that the server ends.
_QUIET_S = 0.25
#: uvicorn looks so often whether it is to end.
_TICK_S = 0.1


class HttpServer:
    """The HTTP side of a server.

    Attributes:
        port: where it listens.
    """

    def __init__(self, service: Service, listener: socket.socket, *, tls_cert: str | None, tls_key: str | None) -> None:
        self._listener = listener
        self.port: int = listener.getsockname()[1]
        config = uvicorn.Config(
            make_app(service),
            http=functools.partial(InferProtocol, service=service),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,  # it is ours: access_log.py
            server_header=False,
            proxy_headers=False,
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
            backlog=2048,
        )
        self._server = _QuietServer(config)
        self._tasks: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        """Listen; returns when connections are accepted."""
        self._tasks = [
            asyncio.ensure_future(self._server.serve(sockets=[self._listener])),
            asyncio.ensure_future(self._sweep()),
        ]
        while not self._server.started:
            if self._tasks[0].done():
                self._tasks[0].result()
            await asyncio.sleep(0.01)

    async def wait_until_quiet(self, timeout_s: float) -> None:
        """Wait until no request comes any more; each connection is closed after its next response."""
        end_s = time.monotonic() + timeout_s
        seen = -1
        while time.monotonic() < end_s and seen != self._server.server_state.total_requests:
            seen = self._server.server_state.total_requests
            await asyncio.sleep(_QUIET_S)

    async def close(self, timeout_s: float) -> None:
        """Accept no more connections, and close each one after the response that is under way."""
        self._server.config.timeout_graceful_shutdown = max(1, round(timeout_s))
        self._server.should_exit = True
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._tasks[0], timeout_s + 10 * _TICK_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _sweep(self) -> None:
        """Close the connections of clients that take too long to send a request."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_s = time.monotonic()
            for connection in list(self._server.server_state.connections):
                if isinstance(connection, InferProtocol):
                    connection.close_if_slow(now_s)


class _QuietServer(uvicorn.Server):
    """uvicorn's server, which leaves the signals to ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield
