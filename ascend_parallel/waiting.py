"""Waiting in a thread that may be the main one, where a Ctrl-C must be seen."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")

#: Python looks for signals before it waits, not while it begins to: a Ctrl-C in between is seen when the wait ends.
#: So no thread that may be the main one waits for longer at a time.
SIGNAL_LATENCY_S = 1.0


def get_next(queue: SimpleQueue[T]) -> T:
    """Wait for the next item of a queue; a Ctrl-C is seen within :data:`SIGNAL_LATENCY_S`."""
    while True:
        try:
            return queue.get(timeout=SIGNAL_LATENCY_S)
        except Empty:
            continue
