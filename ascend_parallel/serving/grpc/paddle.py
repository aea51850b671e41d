"""The pipeline service of Paddle Serving."""

from __future__ import annotations

from typing import Any

from ascend_parallel.serving.paddle.call import Caller, answer
from ascend_parallel.serving.pending_bytes import UNCOUNTED_BYTES
from ascend_parallel.serving.service import Service

from .context import deadline_of, metadata_of, read_request_id
from .messages import PaddleRequest, PaddleResponse, parse, serialize


class PaddleMethods:
    """The method of the service.

    Attributes:
        received: how many requests have come.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.received = 0

    async def inference(self, data: bytes, context: Any) -> bytes:
        """Answer a request; errors are in the answer."""
        self.received += 1
        counted = len(data) if len(data) >= UNCOUNTED_BYTES else 0
        self._service.pending.add(counted)
        try:
            message = parse(PaddleRequest, data)
            metadata = metadata_of(context)
            trace = metadata.get("traceparent")
            caller = Caller(read_request_id(metadata), deadline_of(context), trace if isinstance(trace, str) else "")
            found = await answer(self._service.repository, message, message.name, caller)
        finally:
            self._service.pending.remove(counted)
        return serialize(PaddleResponse, found.to_fields())
