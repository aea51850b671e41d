"""Futures of ``submit`` and ``predict_async``."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ascend_parallel.backends.call import Call
from ascend_parallel.backends.unhandled import report_exception
from ascend_parallel.errors import AscendParallelError

if TYPE_CHECKING:
    import asyncio


def resolve(future: Future[Any], call: Call) -> None:
    """Set a future to the outputs or the error of a completed call; called in a thread of the backend's."""
    try:
        resolve_here(future, call)
    except BaseException:  # a callback's sys.exit, which must not end a thread of ours; the future logs other errors
        report_exception()


def resolve_here(future: Future[Any] | asyncio.Future[Any], call: Call) -> None:
    """Set a future likewise, in a thread of the caller's, such as a loop's, whose Ctrl-C is not ours to catch."""
    if future.done():  # an interrupt may make a backend notify twice; or the task that awaits it was cancelled
        return
    try:
        outputs = call.outputs()
    except AscendParallelError as error:
        future.set_exception(error.with_traceback(None))  # which would hold the call, and its memory, in a cycle
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(outputs)
