"""ModelStreamInfer: requests are computed side by side, and answered in their order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import grpc

from ascend_parallel.errors import OverloadedError
from ascend_parallel.serving.service import Service

from .context import deadline_of, metadata_of
from .infer_call import InferCall

#: Requests of one stream that are read before the first of them is answered: enough for batches, yet a client that
#: does not read its answers fills no memory. So do not more bytes than one request may have.
_MAX_PENDING = 256


class InferStream:
    """One stream.

    Attributes:
        received: how many requests have come.
    """

    def __init__(self, service: Service, context: Any) -> None:
        """Begin to read requests."""
        self.received = 0
        self._service = service
        self._context = context
        self._pending: deque[tuple[InferCall, int]] = deque()
        self._pending_bytes = 0
        self._changed = asyncio.Event()
        self._is_read = False  # to its end
        self._is_ended = False  # by the server
        self._reader = asyncio.ensure_future(self._read())

    async def run(self) -> None:
        """Answer all requests.

        Raises:
            OverloadedError: the server is about to end.
        """
        try:
            while await self._has_next():
                call, size_bytes = self._pending[0]
                answer = await call.stream_answer()
                self._pending.popleft()
                self._pending_bytes -= size_bytes
                self._changed.set()
                await self._context.write(answer)
        finally:
            self._reader.cancel()
            await asyncio.wait([self._reader])
            for call, _ in self._pending:
                call.cancel()
        if self._is_ended:
            raise OverloadedError("the server is about to end; the stream's requests until now were answered")

    def end(self) -> None:
        """Read no more; what has come is answered."""
        if not self._is_read:
            self._is_ended = True
            self._reader.cancel()

    async def _has_next(self) -> bool:
        """Wait for a request; return False where no more will come."""
        while not self._pending and not self._is_read:
            self._changed.clear()
            await self._changed.wait()
        return bool(self._pending)

    async def _read(self) -> None:
        metadata, deadline_s = metadata_of(self._context), deadline_of(self._context)
        try:
            while (data := await self._context.read()) is not grpc.aio.EOF:
                self.received += 1
                self._pending.append((InferCall(self._service, data, metadata, deadline_s, is_stream=True), len(data)))
                self._pending_bytes += len(data)
                self._changed.set()
                while len(self._pending) >= _MAX_PENDING or self._pending_bytes > self._service.max_body_bytes:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            self._is_read = True
            self._changed.set()
