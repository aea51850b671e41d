"""How often the log says the same."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import Callable


class LogLimit:
    """Lets the first few lines of a kind through, and counts the others until a window of time is over."""

    def __init__(
        self, loop: AbstractEventLoop, max_logged: int, window_s: float, tell_more: Callable[[str, int], None]
    ) -> None:
        """Begin with no window open.

        Args:
            loop: in whose thread all is called.
            max_logged: lines of each kind within a window.
            window_s: how long a window is; it begins with a line.
            tell_more: called at the end of a window for each kind of which lines were left out, with their number.
        """
        self._loop = loop
        self._max_logged = max_logged
        self._window_s = window_s
        self._tell_more = tell_more
        self._counts: Counter[str] = Counter()  # of the window that is open

    def allows(self, kind: str) -> bool:
        """Count a line; return whether it is to be logged."""
        if not self._counts:
            self._loop.call_later(self._window_s, self._end_window)
        self._counts[kind] += 1
        return self._counts[kind] <= self._max_logged

    def _end_window(self) -> None:
        for kind, count in self._counts.items():
            if count > self._max_logged:
                self._tell_more(kind, count - self._max_logged)
        self._counts.clear()
