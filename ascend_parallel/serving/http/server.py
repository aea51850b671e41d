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
from .connection_limit import ConnectionLimit
from .listener import count_waiting, drop_new_connections
from .protocol import InferProtocol

#: How often slow clients are looked for.
_SWEEP_S = 5.0
#: The listeners are closed when no request has come for so long: then load balancers know that the server ends.
_QUIET_S = 0.25
#: How long a connection may take from its first packet to its last before it is accepted.
_HANDSHAKE_S = 0.25
#: The loop accepts one connection a turn: it is looked so often whether more wait.
_ACCEPT_TICK_S = 0.01
#: How long a connection may be open before its first request comes, at the end.
_LAST_REQUEST_S = 1.0
#: uvicorn looks so often whether it is to end.
_TICK_S = 0.1


class HttpServer:
    """The HTTP side of a server.

    Attributes:
        port: where it listens.
    """

    def __init__(
        self,
        service: Service,
        listener: socket.socket,
        *,
        max_connections: int,
        tls_cert: str | None,
        tls_key: str | None,
    ) -> None:
        """Prepare; must be called in the event loop's thread."""
        limit = ConnectionLimit(asyncio.get_running_loop(), max_connections)
        self._listener = listener
        self.port: int = listener.getsockname()[1]
        config = uvicorn.Config(
            make_app(service),
            http=functools.partial(InferProtocol, service=service, limit=limit),  # type: ignore[arg-type]
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

    async def _stop_listening(self, timeout_s: float) -> None:
        """Accept the connections that are open, and no more."""
        if self._listener.fileno() < 0:  # it is closed
            return
        end_s = time.monotonic() + timeout_s
        drop_new_connections(self._listener)
        await asyncio.sleep(min(_HANDSHAKE_S, timeout_s))
        while count_waiting(self._listener) and time.monotonic() < end_s:
            await asyncio.sleep(_ACCEPT_TICK_S)
        for server in self._server.servers:
            server.close()

    async def wait_until_quiet(self, timeout_s: float, quiet_s: float = _QUIET_S) -> None:
        """Wait until no request comes any more; each connection is closed after its next response."""
        end_s = time.monotonic() + timeout_s
        seen = -1
        while time.monotonic() < end_s and seen != self._server.server_state.total_requests:
            seen = self._server.server_state.total_requests
            await asyncio.sleep(quiet_s)

    async def close(self, timeout_s: float) -> None:
        """Accept no more connections, and close each one after the response that is under way."""
        end_s = time.monotonic() + timeout_s
        await self._stop_listening(timeout_s / 2)
        if self._server.server_state.connections:  # those accepted last may not have sent their requests yet
            await self.wait_until_quiet((end_s - time.monotonic()) / 2, _LAST_REQUEST_S)
        timeout_s = max(0.0, end_s - time.monotonic())
        self._server.config.timeout_graceful_shutdown = max(1, round(timeout_s))
        self._server.should_exit = True
        await asyncio.wait(self._tasks[:1], timeout=timeout_s + 10 * _TICK_S)
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
