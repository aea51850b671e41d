"""What became of a predict: results brought to where they are wanted, and errors as text."""

from __future__ import annotations

import traceback
from typing import Tuple

import numpy as np

from .engines.base import Arrays

#: A longer traceback is cut in the middle: messages must stay small.
MAX_TRACEBACK_CHARS = 16000


def write_to_destinations(results: Arrays, destinations: Arrays) -> bool:
    """Copy results to where they are wanted; False where destinations do not fit them, or there are none."""
    if results is destinations:
        return bool(destinations)
    if results.keys() != destinations.keys():
        return False
    for name, result in results.items():
        destination = destinations[name]
        if result is destination:
            continue
        if result.shape != destination.shape or result.dtype != destination.dtype:
            return False
        np.copyto(destination, result)
    return True


def describe_error(error: BaseException) -> Tuple[str, str, str]:
    """Return an exception as text: type, message with its cause, traceback."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if len(trace) > MAX_TRACEBACK_CHARS:
        half = MAX_TRACEBACK_CHARS // 2
        trace = trace[:half] + "\n[...]\n" + trace[-half:]
    return type(error).__name__, (str(error) + _cause_of(error))[:MAX_TRACEBACK_CHARS], trace


def _cause_of(error: BaseException) -> str:
    """Return the exception at the start of the chain, where the message does not tell it.

    ``import torch`` says only that a backend failed to load; the library that is missing is in the cause.
    """
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if cause is error or not str(cause) or str(cause) in str(error):
        return ""
    return " (caused by %s: %s)" % (type(cause).__name__, cause)
