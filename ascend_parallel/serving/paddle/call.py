"""One request of Paddle Serving's clients, from what it asks for to the answer."""

from __future__ import annotations

import asyncio
import functools
from typing import Any, NamedTuple

from ascend_parallel.errors import AscendParallelError, NotFoundError
from ascend_parallel.serving.awaiting import Outputs, settle, wait_for_outputs
from ascend_parallel.serving.error_text import text_of
from ascend_parallel.serving.log import logger
from ascend_parallel.serving.repository import Repository
from ascend_parallel.serving.request import INF, InferRequest
from ascend_parallel.serving.served import Served

from .answer import PaddleAnswer, make_answer
from .codes import code_of
from .request import read_request


def has_services(repository: Repository) -> bool:
    """Whether any pipeline is a service of Paddle Serving."""
    return any(served.paddle_service for served in repository)


def find_service(repository: Repository, name: str) -> Served:
    """Return the latest version of the pipeline that is a service; "" is the only service. Raises NotFoundError."""
    there = {served.paddle_service: served.name for served in repository if served.paddle_service}
    if not name and len(there) == 1:
        (name,) = there
    if name not in there:
        known = ", ".join(there) or "none"
        what = f"there is no service {name!r:.200}" if name else "the request names no service"
        raise NotFoundError(f"{what}; the services are: {known}")
    return repository.find(there[name])


class Caller(NamedTuple):
    """What is known of a client's request beside the message.

    Attributes:
        request_id: its name in logs, where it has no logid; "" for none.
        deadline_s: when it is too late to answer, by ``time.monotonic``.
        trace_context: the client's ``traceparent``; "" for none.
    """

    request_id: str = ""
    deadline_s: float = INF
    trace_context: str = ""


async def answer(repository: Repository, message: Any, service: str, caller: Caller) -> PaddleAnswer:
    """Return the answer to a message; errors are in it. If it is cancelled, the request is dropped.

    Args:
        repository: the pipelines.
        message: the request.
        service: the name of the service; "" for the only one.
        caller: who asks.
    """
    try:
        pipeline = find_service(repository, service)
        return await make_answer(await _run(pipeline, message, caller))
    except Exception as error:
        if not isinstance(error, AscendParallelError):
            logger.exception("a request for the service %s failed", service)
        return PaddleAnswer(code_of(error), text_of(error), [], [])


async def _run(pipeline: Served, message: Any, caller: Caller) -> Outputs:
    """Return a pipeline's outputs for a message."""
    future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
    try:
        read = read_request(message)
        request = InferRequest(
            tuple(read.inputs),
            list(read.inputs.values()),
            functools.partial(settle, future),
            id=str(read.log_id) if read.log_id else caller.request_id,
            deadline_s=caller.deadline_s,
            trace_context=caller.trace_context,
        )
        request.wants_values = True
        pipeline.add(request)
    except AscendParallelError as error:
        pipeline.count_refused(error)
        raise
    return await wait_for_outputs(pipeline, request, future)
