"""Failures of single requests: who is to blame, and the sentence that says so.

A failure travels in the reply as ``[kind, code, text, traceback]``. Kinds are :data:`PRODUCT` (the op refused the
request by a :class:`.interface.ProductError`), :data:`ENGINE` (the Python of the op, or its model, raised),
:data:`INPUT` (the op got something wrong), :data:`FEEDS` (its ``preprocess`` returned feeds that do not fit the model)
and :data:`OUTPUT` (its Python returned something else that is wrong). ``code`` is the op's own with :data:`PRODUCT`,
else None. ``traceback`` is "" where there is none to show.
"""

from __future__ import annotations

from typing import List, Optional

from ..results import describe_error
from .interface import ProductError

PRODUCT, ENGINE, INPUT, FEEDS, OUTPUT = "product", "engine", "input", "feeds", "output"


class RequestFailure(Exception):
    """One request failed; those beside it did not."""

    def __init__(self, kind: str, text: str, code: Optional[int] = None, traceback: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.code = code
        self.text = text
        self.traceback = traceback

    def encode(self) -> List[object]:
        """Return what travels."""
        return [self.kind, self.code, self.text, self.traceback]


class WrongValue(ValueError):
    """What an op got cannot be used; the message is the rest of a sentence that names the op."""

    kind = INPUT


class WrongFeeds(WrongValue):
    """What ``preprocess`` returned does not fit the model."""

    kind = FEEDS


class WrongAnswer(WrongValue):
    """What the Python of an op returned cannot be used: no client is to blame for that."""

    kind = OUTPUT


def blame(where: str, doing: str, error: Exception) -> RequestFailure:
    """Return the failure of a request that an error means.

    Args:
        where: the op, and the mini-batch if there are some, such as ``op 'rec', mini-batch 3``.
        doing: what raised: "preprocess", "the model", ...
        error: what was raised.
    """
    if isinstance(error, RequestFailure):
        return error
    if isinstance(error, ProductError):
        return RequestFailure(PRODUCT, error.text, error.code)
    if isinstance(error, WrongValue):
        return RequestFailure(error.kind, "%s: %s" % (where, error))
    kind, text, trace = describe_error(error)
    return RequestFailure(ENGINE, "%s: %s raised %s: %s" % (where, doing, kind, text), traceback=trace)
