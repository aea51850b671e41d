"""The HTTP protocol class: uvicorn's own, which answers the infer route itself and leaves all others to ASGI.

An ASGI app costs about 100 us a request, a protocol class about 12 us. The class keeps uvicorn's rules: an infer
request is a cycle, as uvicorn calls a request and its response, and uvicorn's code decides when it starts. So responses
go out in the order of the requests, and keep-alive and shutdown work as for all other routes.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_client_addr
from uvicorn.server import ServerState

from ascend_parallel.errors import AscendParallelError, UsageError
from ascend_parallel.serving.log import log_access
from ascend_parallel.serving.service import Service

from .body import RepeatedBody
from .connection_limit import ConnectionLimit
from .errors import HeadTooLargeError, SlowRequestError, write_error
from .infer_cycle import InferCycle, find_infer_route

#: Bytes of a request's line and headers at most.
MAX_HEAD_BYTES = 64 << 10
#: How long a client may take to send a request.
READ_TIMEOUT_S = 60.0
#: How long a client may take nothing of a response.
WRITE_TIMEOUT_S = 60.0
#: When a client that has closed its side is looked at first; then after twice as long, and so on.
_FIRST_LOOK_S = 0.005
#: The state of a connection that was reset (TCP_CLOSE of Linux's tcp_states.h), in the first byte of TCP_INFO.
_TCP_CLOSE = 7
#: How long a connection may be open without a request: longer than a load balancer keeps it.
IDLE_TIMEOUT_S = 75.0


class InferProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        service: Service,
        limit: ConnectionLimit,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.service = service
        self._limit = limit
        self.began_s = 0.0
        self.idle_since_s = time.monotonic()
        self.running: InferCycle | None = None  # the one whose turn it is; those behind it are in the pipeline
        self._infer: InferCycle | None = None  # the one whose body is being received
        self._head_bytes = 0  # bytes that have come since the last part of a body
        self._unsent = (0, 0.0)  # bytes that the client has not taken, and since when
        self._must_resume = False
        self._is_in_body = False
        self._is_broken = False  # what comes is no HTTP any more
        self._is_in_message = False
        self._begun = 0  # messages that began in the data that is being parsed
        # The head, bytes in all, bytes of the JSON, and what the cycle was.
        self._repeatable: tuple[bytes, int, int, dict[str, Any]] | None = None

    # ---- from the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; answer at once that there are too many connections, if so."""
        super().connection_made(transport)
        refusal = self._limit.find_refusal(len(self.connections), transport.get_extra_info("socket").fileno())
        if refusal is not None:
            self.connections.discard(self)
            self._is_broken = True
            write_error(transport, refusal, self.default_headers)
            self._limit.close_refused(transport)

    def data_received(self, data: bytes) -> None:
        """Parse; refuse a head that is too long.

        Clients send the same head again and again. A whole request whose head is, byte for byte, that of the one before
        is not parsed anew.
        """
        if self._is_broken:
            return
        at_start = not self._is_in_message
        if at_start and self._is_repeated(data):
            self._begin_again(data)
            return
        self._begun = 0
        self._head_bytes += len(data)
        super().data_received(data)
        if at_start and self._begun == 1 and not self._is_in_message:
            self._note_repeatable(data)
        if self._head_bytes > MAX_HEAD_BYTES:  # trailers behind a body count, too
            self._break_off(HeadTooLargeError(f"the head is longer than {MAX_HEAD_BYTES} bytes"))

    def _is_repeated(self, data: bytes) -> bool:
        """Whether data is a whole request with the same head as one before, and it can be run at once."""
        repeatable = self._repeatable
        return (
            repeatable is not None
            and len(data) == repeatable[1]
            and data.startswith(repeatable[0])
            and self.cycle.response_complete
            and not self.transport.is_closing()
        )

    def _begin_again(self, data: bytes) -> None:
        assert self._repeatable is not None
        head, _, text_bytes, attributes = self._repeatable
        cycle = InferCycle.again(attributes, RepeatedBody(data[len(head) :], text_bytes))
        self.cycle = cycle  # type: ignore[assignment]
        cycle.start()

    def _note_repeatable(self, data: bytes) -> None:
        """Remember a request that came as a whole, and alone, if it is one that can be repeated."""
        cycle = self.cycle
        if not isinstance(cycle, InferCycle):
            return
        size, text_bytes = cycle.repeatable_bytes
        if size:
            head = data[: len(data) - size]
            self._repeatable = head, len(data), text_bytes, cycle.initial_attributes()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._break_off(UsageError(msg.rstrip(".")))

    def _break_off(self, error: AscendParallelError) -> None:
        """Read no more. Answer with an error, but only in its turn: it must not be taken for an earlier answer."""
        self._is_broken = True
        self.began_s = 0.0
        cycle = self.cycle
        if self._infer is not None:
            self._infer.break_off(error)
        elif cycle is None or cycle.response_complete:
            status = write_error(self.transport, error, self.default_headers)
            if self.service.access_log:
                client = get_client_addr({"client": self.client})  # type: ignore[arg-type]
                log_access(client, "what is no request", status, 0.0, "")
            self.transport.close()
        elif self._is_in_body:  # of a request that uvicorn handles
            self.transport.close()
        else:
            cycle.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what the client waits for."""
        for cycle in {self.running, self._infer, *(cycle for cycle, _ in self.pipeline)}:
            if isinstance(cycle, InferCycle):
                cycle.disconnect()
        self.running = None
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that has closed its side only; drop the requests of one that is gone.

        Both look alike until something is sent. So an interim response is sent, which HTTP/1.1 allows before any
        response: a client that is gone resets the connection.
        """
        running = self.running
        if running is None or running.response_complete or not running.can_be_interim or self.scheme != "http":
            return False
        self.cycle.keep_alive = False  # of the last one
        if self._infer is not None:
            self._infer.break_off(UsageError("the request was cut off"))
        self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._drop_if_reset(_FIRST_LOOK_S)
        return True

    def _drop_if_reset(self, next_look_s: float) -> None:
        """Look whether the client has reset the connection, now and then until all is answered."""
        if self.transport.is_closing() or self.cycle is None or self.cycle.response_complete:
            return
        connection = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
            self.transport.abort()
        else:
            self.loop.call_later(next_look_s, self._drop_if_reset, 2 * next_look_s)

    def resume_writing(self) -> None:
        """Go on with the next request once the client has taken most of the answer."""
        super().resume_writing()
        if self._must_resume:
            self._must_resume = False
            self.on_response_complete()

    def end_response(self) -> None:
        """Go on with the next request, once the client has taken most of this response."""
        if self.flow.write_paused:
            self._must_resume = True
            self.flow.pause_reading()
        else:
            self.on_response_complete()

    def close_if_slow(self, now_s: float) -> None:
        """Close the connection if its client sends no request for long, or takes too long to send or receive."""
        self._abort_if_stalled(now_s)
        if self.transport.is_closing():
            return
        if self.flow.read_paused:  # it is ours that nothing comes
            self.began_s = now_s if self.began_s else 0.0
        elif self.began_s:
            if now_s - self.began_s > READ_TIMEOUT_S:
                self._break_off(SlowRequestError(f"the request did not arrive in {READ_TIMEOUT_S:g} s"))
        elif (self.cycle is None or self.cycle.response_complete) and now_s - self.idle_since_s > IDLE_TIMEOUT_S:
            self.transport.close()

    def _abort_if_stalled(self, now_s: float) -> None:
        """Drop a client that takes nothing of a response for long: closing would wait until it does."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent != self._unsent[0]:
            self._unsent = (unsent, now_s)
        elif now_s - self._unsent[1] > WRITE_TIMEOUT_S:
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Go on with the next request; look for idle connections now and then, rather than by a timer for each."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self.idle_since_s = time.monotonic()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers that all responses have, such as the date."""
        return self.server_state.default_headers

    # ---- from the parser

    def on_message_begin(self) -> None:
        """Note when the request began; uvicorn's scope is made for other routes only."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.began_s = time.monotonic()
        self._is_in_message = True
        self._begun += 1

    def on_headers_complete(self) -> None:
        """Begin an infer request, or leave the request to uvicorn."""
        self._head_bytes = 0
        self._is_in_body = True
        route = find_infer_route(self.url) if self.parser.get_method() == b"POST" else None
        if route is None:
            self._begin_other()
            return
        cycle = InferCycle(self, *route)
        self._infer = cycle
        before = self.cycle
        self.cycle = cycle  # type: ignore[assignment]
        if before is None or before.response_complete:
            cycle.start()
        else:  # pipelined: it starts when those before are answered
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))  # type: ignore[arg-type]

    def _begin_other(self) -> None:
        self._infer = None
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        try:
            super().on_headers_complete()
        except httptools.HttpParserError:
            raise
        except Exception as error:  # a path that is no ASCII, for example
            raise httptools.HttpParserError(str(error)) from None
        if self.service.repository.is_draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._head_bytes = 0
        if self._infer is not None:
            self._infer.take_body(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Run an infer request whose body is there."""
        self.began_s = 0.0
        self._is_in_message = False
        self._is_in_body = False
        cycle = self._infer
        if cycle is None:
            super().on_message_complete()
        else:
            self._infer = None
            cycle.complete_body()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Start a request whose turn it is."""
        if isinstance(cycle, InferCycle):
            cycle.start()
        else:
            super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """Close the connection, or have it closed after the response that is under way, or the request that arrives."""
        if not self.began_s:  # a request whose headers come from now on is the last one
            super().shutdown()
        elif self._is_in_body:
            self.cycle.keep_alive = False
