"""Errors as Paddle Serving's clients know them: by number, in an answer whose HTTP status is 200."""

from __future__ import annotations

from ascend_parallel.errors import (
    DeadlineError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    UsageError,
    WorkerTimeout,
)
from ascend_parallel.pipelines.op_batcher import WrongFeedsError, WrongOutputError

#: No such service; the pipeline takes no requests; the input is wrong; not in time; a value is of the wrong type; the
#: request cannot be unpacked; anything else. Product errors, 50 to 99, are the ops' own.
NO_SERVICE, CLOSED, WRONG_INPUT, TIMEOUT, WRONG_TYPE, WRONG_PACKAGE, OTHER = 3002, 3001, 5000, 6000, 7000, 8000, 10000


class PackageError(UsageError):
    """A request, or an answer, cannot be unpacked or packed."""


class WrongTypeError(WrongOutputError):
    """A pipeline's answer has values that Paddle Serving's clients cannot get."""


_CODES: list[tuple[tuple[type[Exception], ...], int]] = [
    ((PackageError,), WRONG_PACKAGE),
    ((NotFoundError,), NO_SERVICE),
    ((OverloadedError,), CLOSED),
    ((DeadlineError, WorkerTimeout), TIMEOUT),
    ((WrongOutputError,), WRONG_TYPE),
    ((UsageError, WrongFeedsError), WRONG_INPUT),
]


def code_of(error: Exception) -> int:
    """Return Paddle Serving's number of an error."""
    if isinstance(error, RefusedError):
        return error.code
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), OTHER)
