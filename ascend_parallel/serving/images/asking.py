"""Requests to a served model from within the server, as coroutines of its event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence

from ascend_parallel.batching.batch import Array
from ascend_parallel.serving.awaiting import Outputs, settle
from ascend_parallel.serving.request import InferRequest
from ascend_parallel.serving.served_model import ServedModel


async def ask(model: ServedModel, requests: Sequence[Mapping[str, Array]], deadline_s: float) -> list[dict[str, Array]]:
    """Queue several requests, which may be in different batches; return the outputs of each.

    Whatever ends this early, a failure of one of them too, drops the others.

    Args:
        model: who computes them.
        requests: the inputs of each, name -> array.
        deadline_s: ``time.monotonic`` from which on they are too late.

    Raises:
        OverloadedError: the queue is full, or the model is not ready.
        DeadlineError, WorkerError: as the model's queue raises them.
    """
    loop = asyncio.get_running_loop()
    queued: list[tuple[InferRequest, asyncio.Future[Outputs]]] = []
    try:
        for inputs in requests:
            future: asyncio.Future[Outputs] = loop.create_future()
            on_done = functools.partial(settle, future)
            request = InferRequest(tuple(inputs), list(inputs.values()), on_done, deadline_s=deadline_s)
            model.add(request)
            queued.append((request, future))
        return [await future for _, future in queued]
    finally:
        for request, future in queued:
            model.cancel(request)  # does nothing to one that is done
            if future.done() and not future.cancelled():
                future.exception()  # was not asked for where another one failed first
