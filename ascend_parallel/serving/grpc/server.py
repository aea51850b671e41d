"""The gRPC server, in the same event loop; started and ended by :mod:`ascend_parallel.serving.server`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from ascend_parallel.errors import AscendParallelError, UsageError
from ascend_parallel.serving.address import listen
from ascend_parallel.serving.log import log_access, logger
from ascend_parallel.serving.service import Service

from .context import metadata_of, read_request_id
from .health import Health
from .inference import OPEN_METHODS, InferenceMethods
from .messages import HEALTH, INFERENCE, PADDLE
from .paddle import PaddleMethods
from .status import describe_error

#: No more requests are taken when none has come for so long.
_QUIET_S = 0.25


class GrpcServer:
    """The gRPC side of a server.

    Attributes:
        port: where it listens.
    """

    def __init__(self, service: Service, host: str, port: int, *, tls_cert: str | None, tls_key: str | None) -> None:
        """Take an address; must be called in the event loop's thread. Raises UsageError where it is taken."""
        self._service = service
        self._methods = InferenceMethods(service)
        self._paddle = PaddleMethods(service)
        self._health = Health(service.repository)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", service.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # else two servers share a port, and each gets half of the requests
            ]
        )
        handlers = (self._inference_handler(), self._paddle_handler(), self._health_handler())
        self._server.add_generic_rpc_handlers(handlers)
        self.port = self._bind(host, port, tls_cert, tls_key)

    def _bind(self, host: str, port: int, tls_cert: str | None, tls_key: str | None) -> int:
        if port:
            listen(host, port, "--grpc-port").close()  # gRPC itself does not tell why it cannot
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls_cert is None or tls_key is None:
                found: int = self._server.add_insecure_port(address)
            else:
                pair = Path(tls_key).read_bytes(), Path(tls_cert).read_bytes()
                found = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:
            raise UsageError(f"cannot listen on {address} for gRPC: {error}") from None
        return found

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    async def wait_until_quiet(self, timeout_s: float) -> None:
        """Tell clients that watch the health, and wait until no infer request comes any more."""
        self._health.end()
        end_s = time.monotonic() + timeout_s
        seen = -1
        while time.monotonic() < end_s and seen != self._received:
            seen = self._received
            await asyncio.sleep(_QUIET_S)

    @property
    def _received(self) -> int:
        return self._methods.received + self._paddle.received

    async def close(self, timeout_s: float) -> None:
        """Take no more requests, and answer those that have come."""
        self._methods.end_streams()
        await self._server.stop(timeout_s)

    # ---- handlers

    def _inference_handler(self) -> Any:
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._guard(name, method, is_open=name in OPEN_METHODS))
            for name, method in self._methods.unary().items()
        }
        stream = self._guard("ModelStreamInfer", self._methods.stream, is_open=False)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(stream)
        return grpc.method_handlers_generic_handler(INFERENCE, handlers)

    def _paddle_handler(self) -> Any:
        method = self._guard("inference", self._paddle.inference, is_open=False)
        return grpc.method_handlers_generic_handler(PADDLE, {"inference": grpc.unary_unary_rpc_method_handler(method)})

    def _health_handler(self) -> Any:
        check = self._guard("Check", self._health.check, is_open=True)
        watch = self._guard("Watch", self._health.watch, is_open=True)
        handlers = {
            "Check": grpc.unary_unary_rpc_method_handler(check),
            "Watch": grpc.unary_stream_rpc_method_handler(watch),
        }
        return grpc.method_handlers_generic_handler(HEALTH, handlers)

    def _guard(self, name: str, method: Callable[[Any, Any], Awaitable[Any]], *, is_open: bool) -> Any:
        """Return a method that asks for the token, and whose errors are the statuses of RPCs."""

        async def run(request: Any, context: Any) -> Any:
            began_s = time.monotonic()
            try:
                if not is_open:
                    self._check_token(context)
                answer = await method(request, context)
            except Exception as error:
                failure = error
            else:
                self._log_access(name, "OK", context, began_s)
                return answer
            if not isinstance(failure, AscendParallelError):
                logger.error("the RPC %s failed", name, exc_info=failure)
            code, text, metadata = describe_error(failure)
            self._log_access(name, code.name, context, began_s)
            return await context.abort(code, text, metadata)

        return run

    def _check_token(self, context: Any) -> None:
        if self._service.has_token:
            given = metadata_of(context).get("authorization", "")
            self._service.check_authorization(given.encode() if isinstance(given, str) else given)

    def _log_access(self, name: str, code: str, context: Any, began_s: float) -> None:
        if self._service.access_log:
            request_id = read_request_id(metadata_of(context))
            log_access(context.peer(), f"gRPC {name}", code, time.monotonic() - began_s, request_id)
