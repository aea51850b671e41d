"""An asyncio event loop that waits for the calls of a backend."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # asyncio is imported by those who run a loop: it takes a while
    from asyncio import AbstractEventLoop

    from .call import Call


class EventLoop:
    """A loop attached to a backend: it polls the workers' pipes itself, so that an answer wakes no second thread.

    It is made in the loop's own thread.
    """

    _fd = -1

    def __init__(self, loop: AbstractEventLoop, fd: int, poll: Callable[[], None]) -> None:
        """Have the loop poll.

        Args:
            loop: the running loop.
            fd: readable when workers have sent something; -1 if there is nothing to poll.
            poll: receives what they have sent, without waiting.
        """
        self._loop = loop
        self._thread = threading.get_ident()
        if fd >= 0:
            # A descriptor of its own: the backend may close its one in another thread, while the loop still watches.
            self._fd = os.dup(fd)
            loop.add_reader(self._fd, poll)

    @property
    def is_running(self) -> bool:
        """Whether the loop polls, now or as soon as its current callback returns."""
        return self._loop.is_running()

    @property
    def is_closed(self) -> bool:
        """Whether the loop has ended for good."""
        return self._loop.is_closed()

    def run(self, function: Callable[[Call], None], call: Call) -> None:
        """Call a function in the loop's thread: at once if this is it, else soon; never if the loop is closed."""
        if self._loop.is_closed():
            return
        if threading.get_ident() == self._thread:
            function(call)
            return
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._loop.call_soon_threadsafe(function, call)

    def detach(self) -> None:
        """Have the loop poll no more; can be called from any thread."""
        if self._fd < 0:
            return
        if self._loop.is_closed():
            self._close()
        elif threading.get_ident() == self._thread:
            self._loop.remove_reader(self._fd)
            self._close()
        else:
            with contextlib.suppress(RuntimeError):  # closed meanwhile: the destructor closes the descriptor
                self._loop.call_soon_threadsafe(self.detach)

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def __del__(self) -> None:
        if self._fd >= 0:
            self._close()
