"""Requests whose answer a coroutine of the event loop waits for."""

from __future__ import annotations

from asyncio import CancelledError, Future
from typing import Any

from .request import InferRequest
from .served import Served

#: The outputs of a request, name -> array; of a pipeline, where the request wants values, whatever its ops gave.
Outputs = dict[str, Any]


def settle(future: Future[Outputs], request: InferRequest) -> None:
    """Give a future the answer of a request that is done: with the future bound, it is the request's ``on_done``."""
    if future.done():  # its task was cancelled
        return
    if request.error is not None:
        future.set_exception(request.error)
    else:
        assert request.outputs is not None
        future.set_result(request.outputs)


async def wait_for_outputs(served: Served, request: InferRequest, future: Future[Outputs]) -> Outputs:
    """Return the outputs of a request that was added; drop it where the task that waits is cancelled.

    Args:
        served: what computes it.
        request: its ``on_done`` settles the future.
        future: of this event loop.

    Raises:
        AscendParallelError: what it failed with.
    """
    try:
        return await future
    except CancelledError:  # the client is gone
        served.cancel(request)
        raise
