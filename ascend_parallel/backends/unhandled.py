"""Exceptions that must not end a thread of ours."""

from __future__ import annotations

import sys
import threading


def report_exception() -> None:
    """Print the exception that is handled, as Python prints one that ends a thread."""
    threading.excepthook(threading.ExceptHookArgs([*sys.exc_info(), threading.current_thread()]))
