"""The methods of the inference service."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from ascend_parallel.errors import NotFoundError, UsageError
from ascend_parallel.serving.rest.metadata import (
    describe_config,
    describe_index,
    describe_model,
    describe_server,
    describe_stats,
)
from ascend_parallel.serving.served import Served
from ascend_parallel.serving.service import Service

from .context import deadline_of, metadata_of
from .infer_call import InferCall
from .infer_stream import InferStream
from .messages import INFERENCE, message_class, method_names, parse, serialize

#: Methods without a token: probes have none.
OPEN_METHODS = ("ServerLive", "ServerReady")

#: Takes the bytes of a request and the context of the RPC; returns the bytes of the answer.
UnaryMethod = Callable[[bytes, Any], Awaitable[bytes]]
#: Takes a message; returns the fields of the answer, as JSON has them.
_Describe = Callable[[Any], Awaitable[dict[str, Any]]]


class InferenceMethods:
    """The methods. All of them run in the event loop's thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._repository = service.repository
        self._unary_received = 0
        self._stream_received = 0  # of streams that are over
        self._streams: set[InferStream] = set()

    @property
    def received(self) -> int:
        """How many infer requests have come."""
        return self._unary_received + self._stream_received + sum(stream.received for stream in self._streams)

    def end_streams(self) -> None:
        """Read no more requests of streams; those that have come are answered."""
        for stream in self._streams:
            stream.end()

    def unary(self) -> dict[str, UnaryMethod]:
        """Return all methods of one request and one answer, by name."""
        table: dict[str, _Describe] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "SystemSharedMemoryStatus": self._shared_memory_status,
            "SystemSharedMemoryRegister": self._shared_memory_register,
            "SystemSharedMemoryUnregister": self._shared_memory_unregister,
        }
        assert {*table, "ModelInfer", "ModelStreamInfer"} == set(method_names(INFERENCE))
        return {"ModelInfer": self._infer, **{name: _method(name, describe) for name, describe in table.items()}}

    # ---- inference

    async def _infer(self, data: bytes, context: Any) -> bytes:
        self._unary_received += 1
        return await InferCall(self._service, data, metadata_of(context), deadline_of(context)).answer()

    async def stream(self, requests: object, context: Any) -> None:
        """Answer the requests of a stream, in their order."""
        stream = InferStream(self._service, context)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)
            self._stream_received += stream.received

    # ---- the server

    async def _server_live(self, request: Any) -> dict[str, Any]:
        return {"live": True}

    async def _server_ready(self, request: Any) -> dict[str, Any]:
        return {"ready": self._repository.is_ready}

    async def _server_metadata(self, request: Any) -> dict[str, Any]:
        return describe_server(self._service.extensions)

    # ---- models

    def _find(self, request: Any) -> Served:
        return self._repository.find(request.name, request.version)

    async def _model_ready(self, request: Any) -> dict[str, Any]:
        with contextlib.suppress(NotFoundError):  # as in Triton, a model that is not there is one that is not ready
            return {"ready": self._find(request).is_ready and not self._repository.is_draining}
        return {"ready": False}

    async def _model_metadata(self, request: Any) -> dict[str, Any]:
        model = self._find(request)
        return describe_model(model, self._repository.versions(model.name))

    async def _model_config(self, request: Any) -> dict[str, Any]:
        return {"config": describe_config(self._find(request))}

    async def _model_statistics(self, request: Any) -> dict[str, Any]:
        return describe_stats([self._find(request)] if request.name else self._repository)

    # ---- the repository

    async def _repository_index(self, request: Any) -> dict[str, Any]:
        _check_repository(request)
        return {"models": describe_index(self._repository, only_ready=request.ready)}

    async def _load(self, request: Any) -> dict[str, Any]:
        _check_repository(request)
        self._service.check_control()
        if request.parameters:
            raise UsageError("load takes no parameters: a model is loaded as the server's configuration has it")
        await self._repository.load(request.model_name)
        return {}

    async def _unload(self, request: Any) -> dict[str, Any]:
        _check_repository(request)
        self._service.check_control()
        await self._repository.unload(request.model_name)
        return {}

    # ---- shared memory

    async def _shared_memory_status(self, request: Any) -> dict[str, Any]:
        regions = self._service.shared_memory.describe(request.name)
        return {"regions": {region["name"]: region for region in regions}}

    async def _shared_memory_register(self, request: Any) -> dict[str, Any]:
        memory = self._service.shared_memory
        memory.register(request.name, request.key, request.offset, request.byte_size)
        return {}

    async def _shared_memory_unregister(self, request: Any) -> dict[str, Any]:
        self._service.shared_memory.unregister(request.name)
        return {}


def _method(name: str, describe: _Describe) -> UnaryMethod:
    request_class, response_class = (message_class(f"inference.{name}{side}") for side in ("Request", "Response"))

    async def answer(data: bytes, context: Any) -> bytes:
        return serialize(response_class, await describe(parse(request_class, data)))

    return answer


def _check_repository(request: Any) -> None:
    if request.repository_name:
        raise UsageError(f"repository_name is {request.repository_name!r:.200}, but this server has one without a name")
