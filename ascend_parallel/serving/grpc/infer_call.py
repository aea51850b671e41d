"""One infer request over gRPC, from its bytes to those of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import AscendParallelError
from ascend_parallel.serving.log import logger
from ascend_parallel.serving.pending_bytes import UNCOUNTED_BYTES
from ascend_parallel.serving.request import INF, InferRequest
from ascend_parallel.serving.served import Served
from ascend_parallel.serving.service import Service

from .context import read_request_id
from .infer_answer import write_answer, write_stream_error
from .infer_request import GrpcRequest, read_request, split


class InferCall:
    """One request. All of it runs in the event loop's thread."""

    def __init__(
        self,
        service: Service,
        data: bytes,
        metadata: Mapping[str, str | bytes],
        deadline_s: float = INF,
        *,
        is_stream: bool = False,
    ) -> None:
        """Read a request and queue it; an error is kept for :meth:`answer`.

        Args:
            service: the models.
            data: a ModelInferRequest.
            metadata: what came with the RPC.
            deadline_s: when it is too late to answer, by ``time.monotonic``.
            is_stream: whether it is one of a stream's.
        """
        self._service = service
        self._is_stream = is_stream
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._id = ""
        self._read: GrpcRequest | None = None
        self._model: Served | None = None
        self._request: InferRequest | None = None
        self._error: Exception | None = None
        self._reserved = 0
        self._answer = b""
        try:
            self._add(data, metadata, deadline_s)
        except Exception as error:
            self._error = error
            self._release()
            if self._model is not None:
                self._model.count_refused(error)

    def _add(self, data: bytes, metadata: Mapping[str, str | bytes], deadline_s: float) -> None:
        parts = split(data)
        self._id = parts.id
        self._reserve(len(data))
        read = self._read = read_request(data, parts)
        model = self._model = self._service.repository.find(read.model, read.version)
        head = read.head
        arrays = self._service.fill_regions(model, head, read.arrays)
        if head.outputs is not None:
            model.check_outputs([ref.name for ref in head.outputs])
        request = InferRequest(head.names, arrays, self._note_done, id=parts.id, deadline_s=deadline_s)
        if not parts.id:
            request.id = read_request_id(metadata)
        if head.timeout_s is not None:
            request.deadline_s = min(deadline_s, request.arrived_s + head.timeout_s)
        context = metadata.get("traceparent")
        if isinstance(context, str):
            request.trace_context = context
        model.add(request)
        self._request = request

    def _reserve(self, size: int) -> None:
        """Count the bytes of the message until the request is done; raises OverloadedError."""
        if size >= UNCOUNTED_BYTES:
            self._service.pending.add(size)
            self._reserved = size

    def _release(self) -> None:
        if self._reserved:
            self._service.pending.remove(self._reserved)
            self._reserved = 0

    def _note_done(self, request: InferRequest) -> None:
        """Write the answer, or note why it cannot be written, which is counted as a failure."""
        self._release()
        if self._done.done():
            return
        try:
            if request.outputs is not None:
                self._answer = self._write(request.outputs)
        except Exception as error:
            request.error = error
        self._done.set_result(None)

    def _write(self, outputs: Mapping[str, Array]) -> bytes:
        assert self._read is not None and self._model is not None
        head = self._read.head
        if head.has_regions:
            self._service.fill_output_regions(head, outputs)
        name, version = self._model.name, self._model.version
        return write_answer(name, version, self._id, head.outputs, outputs, is_stream=self._is_stream)

    async def answer(self) -> bytes:
        """Return the answer, or raise why there is none; if it is cancelled, the request is dropped."""
        if self._error is not None:
            raise self._error
        assert self._request is not None
        try:
            await self._done
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._request.error is not None:
            raise self._request.error
        return self._answer

    async def stream_answer(self) -> bytes:
        """Return the answer as it goes into a stream, in which an error is an answer too."""
        try:
            return await self.answer()
        except Exception as error:
            if not isinstance(error, AscendParallelError):
                logger.exception("a request of a stream failed")
            read = self._read
            return write_stream_error(error, *((read.model, read.version) if read else ("", "")), self._id)

    def cancel(self) -> None:
        """Drop the request, as nobody waits for it."""
        self._release()
        if self._model is not None and self._request is not None:
            self._model.cancel(self._request)
