"""Progress of a run without a terminal: nothing, or a line every few seconds."""

from __future__ import annotations

import sys
import time

from .counts import RunCounts

__all__ = ["ProgressLines", "ProgressView"]

#: Time between two lines.
_LINE_S = 10.0


class ProgressView:
    """Shows nothing: ``--quiet``."""

    def __init__(self, counts: RunCounts) -> None:
        self._counts = counts

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self) -> None:
        """Show the current counts."""


class ProgressLines(ProgressView):
    """Prints a line every ten seconds."""

    _next_s = 0.0

    def __enter__(self) -> ProgressView:
        self._next_s = time.monotonic() + _LINE_S
        return self

    def update(self) -> None:
        """Print a line if one is due."""
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _LINE_S
            counts = self._counts
            dealt_with = counts.before + counts.dealt_with
            line = f"{dealt_with:,}/{counts.total:,} files, {counts.describe()}; {counts.describe_devices()}"
            print(line, file=sys.stderr, flush=True)
