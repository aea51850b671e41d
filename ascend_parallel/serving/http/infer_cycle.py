"""One infer request over HTTP, from its headers to its response."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
from uvicorn.protocols.utils import get_client_addr

from ascend_parallel.errors import AscendParallelError, TooLargeError, UsageError
from ascend_parallel.serving.infer_head import InferHead
from ascend_parallel.serving.log import log_access, logger
from ascend_parallel.serving.request import InferRequest
from ascend_parallel.serving.rest.infer_answer import Answer
from ascend_parallel.serving.served import Served

from .body import Body, RepeatedBody
from .errors import write_error
from .infer_steps import UNCOUNTED_DIGITS, make_answer, prepare_body, read_request
from .request_id import read_request_id

if TYPE_CHECKING:
    import asyncio

    from .protocol import InferProtocol

_ROUTE = re.compile(rb"/v2/models/([^/?]+)(?:/versions/([^/?]+))?/infer(?:\?.*)?")
#: Routes that are kept by their URL: a client that makes up URLs does not fill the memory.
_MAX_ROUTES = 1024
_MAX_ROUTE_BYTES = 512
_routes: dict[bytes, tuple[str, str] | None] = {}

#: How long a client whose body was refused may go on sending it, so that it sees the response.
_LINGER_S = 2.0
_BINARY_LINES = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
_JSON_LINES = b"content-type: application/json\r\n"
_LENGTH_LINES = b"content-length: %d\r\n\r\n"
_LENGTH_AND_CLOSE_LINES = b"content-length: %d\r\nconnection: close\r\n\r\n"
#: Responses of so many bytes are copied into one write; of larger ones, the tensors are written as they are.
_JOINED_BYTES = 1 << 14


def find_infer_route(url: bytes) -> tuple[str, str] | None:
    """Return (model, version) of an infer route; the version is "" for the latest. None for other routes."""
    try:
        return _routes[url]
    except KeyError:
        pass
    match = _ROUTE.fullmatch(url)
    route = None
    if match is not None:
        route = unquote(match[1].decode("latin-1")), unquote((match[2] or b"").decode("latin-1"))
    if len(url) <= _MAX_ROUTE_BYTES:
        if len(_routes) >= _MAX_ROUTES:
            _routes.clear()
        _routes[url] = route
    return route


#: What a cycle begins with.
_INITIAL: dict[str, Any] = {
    "response_complete": False,
    "disconnected": False,
    "_is_started": False,
    "_is_complete": True,
    "_linger": None,
    "_error": None,
    "_head": None,
    "_model": None,
    "_request": None,
}


class _NoEvent:
    """Stands where uvicorn's cycle has an event that its ASGI app waits for."""

    def set(self) -> None:
        """Do nothing."""


_NO_EVENT = _NoEvent()


class InferCycle:
    """An infer request and its response, in the place of one of uvicorn's cycles.

    Attributes:
        response_complete: whether the response was written.
        disconnected: whether the client is gone.
        keep_alive: whether the connection stays open after the response.
        message_event: for uvicorn, which sets it when the client is gone.
    """

    message_event = _NO_EVENT

    def __init__(self, protocol: InferProtocol, model: str, version: str) -> None:
        self.response_complete = False
        self.disconnected = False
        parser = protocol.parser
        self.keep_alive = (
            parser.should_keep_alive()
            and parser.get_http_version() != "1.0"
            and not protocol.service.repository.is_draining
        )
        self._protocol = protocol
        self._model_name = model
        self._version = version
        self._headers = headers = dict(protocol.headers)
        self._url = protocol.url
        self._began_s = protocol.began_s
        body = Body(headers, protocol.service.max_body_bytes, protocol.service.pending)
        self._body: Body | RepeatedBody = body
        self._is_started = False
        self._is_complete = False
        self._linger: asyncio.TimerHandle | None = None
        self._error: Exception | None = None
        self._head: InferHead | None = None
        self._model: Served | None = None
        self._request: InferRequest | None = None
        self._error = self._check(headers, body)

    # ---- the same head again

    @property
    def repeatable_bytes(self) -> tuple[int, int]:
        """The size of the body, and of the JSON in it, if another request can be taken for one with the same head.

        The sizes are 0 where it cannot.
        """
        headers = self._headers
        has_odd_headers = b"expect" in headers or b"content-encoding" in headers
        length = headers.get(b"content-length", b"")
        if self._error is not None or not self.keep_alive or has_odd_headers or not 0 < len(length) <= UNCOUNTED_DIGITS:
            return 0, 0
        text_length = headers.get(b"inference-header-content-length", length)
        is_plain = text_length.isdigit() and len(text_length) <= UNCOUNTED_DIGITS and int(text_length) <= int(length)
        return (int(length), int(text_length)) if is_plain else (0, 0)

    def initial_attributes(self) -> dict[str, Any]:
        """Return what a cycle with the same head begins with."""
        return {**self.__dict__, **_INITIAL}

    @classmethod
    def again(cls, attributes: dict[str, Any], body: RepeatedBody) -> InferCycle:
        """Return a cycle with the same head as one before, and a whole body."""
        cycle = cls.__new__(cls)
        cycle.__dict__.update(attributes)
        cycle.keep_alive = not cycle._protocol.service.repository.is_draining
        cycle._began_s = time.monotonic()
        cycle._body = body
        return cycle

    # ---- the request

    def _check(self, headers: dict[bytes, bytes], body: Body) -> Exception | None:
        """Return why the request is refused before its body is there."""
        try:
            return self._check_headers(headers, body)
        except AscendParallelError as error:
            return error

    def _check_headers(self, headers: dict[bytes, bytes], body: Body) -> Exception | None:
        service = self._protocol.service
        service.check_token(headers)
        if self._protocol.parser.should_upgrade():  # the parser reads no body of such a request
            self.keep_alive = False
            return UsageError("this server does not upgrade connections; send the request without the header Upgrade")
        prepare_body(service, headers, body, self._model_name, self._version)
        return None

    @property
    def can_be_interim(self) -> bool:
        """Whether the client may get an interim response (1xx): it has sent a whole request of HTTP/1.1."""
        return self._is_complete and self._is_started and self._protocol.parser.get_http_version() == "1.1"

    def start(self) -> None:
        """Begin: all requests before on this connection are answered."""
        self._is_started = True
        self._protocol.running = self
        if self._protocol.transport.is_closing():  # a request before this one was the last
            self.disconnected = self.response_complete = True
        elif isinstance(self._error, TooLargeError):
            self._refuse_body()
        elif self._is_complete:
            self._run()
        elif self._headers.get(b"expect", b"").lower() == b"100-continue":
            if self._error is not None:
                self._refuse_body()
            else:
                self._protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._error is None:
            assert isinstance(self._body, Body)
            try:
                self._body.add(body)
            except AscendParallelError as error:  # it is chunked, else it was refused before
                self._error = error
                self._body.clear()
                if self._is_started and isinstance(error, TooLargeError):
                    self._refuse_body()

    def complete_body(self) -> None:
        """Run the request, if it is its turn."""
        self._is_complete = True
        if self._linger is not None:
            self._linger.cancel()
            self._protocol.transport.close()
        elif self._is_started and not self.response_complete:
            self._run()

    def break_off(self, error: AscendParallelError) -> None:
        """Answer with an error, as the rest of the body will not come."""
        self._error = error
        self.keep_alive = False
        self.complete_body()

    def _refuse_body(self) -> None:
        """Answer before the body is there; read on for a while, so that the client sees it."""
        assert self._error is not None
        self.keep_alive = False
        protocol = self._protocol
        self._respond_error(self._error, may_close=self._is_complete)
        if not self._is_complete:
            self._linger = protocol.loop.call_later(_LINGER_S, protocol.transport.close)

    def _run(self) -> None:
        """Read the body and queue the request."""
        try:
            if self._error is not None:
                raise self._error
            self._model = self._protocol.service.repository.find(self._model_name, self._version)
            self._add(self._model)
        except AscendParallelError as error:
            if self._model is not None:
                self._model.count_refused(error)
            self._respond_error(error)
        except Exception as error:  # a fault of ours
            logger.exception("a request for model %s failed", self._model_name)
            self._respond_error(error)

    def _add(self, model: Served) -> None:
        service = self._protocol.service
        self._head, self._request = read_request(service, model, self._headers, self._body, self._take_answer)
        model.add(self._request)

    def disconnect(self) -> None:
        """Drop the request, as the client is gone."""
        self.disconnected = True
        self._body.clear()
        if self._linger is not None:
            self._linger.cancel()
        if self._request is not None and self._model is not None:
            self._model.cancel(self._request)

    # ---- the response

    def _take_answer(self, request: InferRequest) -> None:
        """Write the response; called when the request is done."""
        if self.disconnected:
            return
        if request.error is not None:
            self._respond_error(request.error)
            return
        assert self._head is not None and self._model is not None and request.outputs is not None
        try:
            answer = make_answer(self._protocol.service, self._model, self._head, request.outputs)
        except Exception as error:
            if not isinstance(error, AscendParallelError):
                logger.exception("the answer of model %s cannot be written", self._model_name)
            request.error = error  # it is counted as a failure
            self._respond_error(error)
            return
        self._respond_answer(answer)

    def _respond_answer(self, answer: Answer) -> None:
        protocol = self._protocol
        tensors = answer.tensors
        parts: list[Any] = [
            protocol.service.ok_lines(protocol.default_headers),
            (_BINARY_LINES % len(answer.head)) if tensors else _JSON_LINES,
            (_LENGTH_LINES if self.keep_alive else _LENGTH_AND_CLOSE_LINES) % answer.size_bytes,
            answer.head,
        ]
        if answer.size_bytes <= _JOINED_BYTES:
            parts += [tensor.tobytes() for tensor in tensors]
            protocol.transport.write(b"".join(parts))
        else:
            parts += [_bytes_of(tensor) for tensor in tensors]
            protocol.transport.writelines(parts)
        self._finish(200)

    def _respond_error(self, error: Exception, *, may_close: bool = True) -> None:
        if self.disconnected or self.response_complete:
            return
        protocol = self._protocol
        headers = protocol.default_headers
        if request_id := self._request_id():
            headers = [*headers, (b"x-request-id", request_id.encode("ascii", "replace"))]
        status = write_error(protocol.transport, error, headers, keep_alive=self.keep_alive)
        self._finish(status, may_close=may_close)

    def _finish(self, status: int, *, may_close: bool = True) -> None:
        """Go on with the next request; not before the client has taken most of this response."""
        protocol = self._protocol
        self.response_complete = True
        self._body.clear()
        if protocol.service.access_log:
            self._log_access(status)
        self._request = None
        if not self.keep_alive and may_close:
            protocol.transport.close()
        protocol.end_response()

    def _log_access(self, status: int) -> None:
        client = get_client_addr({"client": self._protocol.client})  # type: ignore[arg-type]
        call = f"POST {self._url.decode('latin-1')}"
        log_access(client, call, status, time.monotonic() - self._began_s, self._request_id())

    def _request_id(self) -> str:
        """Return the id by the request's body, else by its header, else the one that was made; "" for none."""
        if self._request is not None and self._request.id:
            return self._request.id
        return read_request_id(self._headers)


def _bytes_of(tensor: Any) -> memoryview:
    """Return the memory of a tensor, which holds it until it is written."""
    return memoryview(tensor.reshape(-1).view(np.uint8))
