"""An asyncio event loop that waits for the calls of a backend."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # asyncio is imported by those who run a loop: it takes a while
    from asyncio import AbstractEventLoop

    from .call import Call

#: How often in a row the loop finds that another thread polls, before it pauses. Usually that thread only has to wake.
_MAX_REFUSALS = 16
#: How long it then leaves the pipes to that thread, which may be running a future's callback.
_PAUSE_S = 1e-3


class EventLoop:
    """A loop attached to a backend: it polls the workers' pipes itself, so that an answer wakes no second thread.

    Attributes:
        polling_thread: the thread in which the loop polls just now; None while it does not.
    """

    polling_thread: int | None = None
    _fd = -1
    _poll: Callable[[EventLoop], None]

    def __init__(self, loop: AbstractEventLoop) -> None:
        """Take the running loop of this thread."""
        self._loop = loop
        self._thread = threading.get_ident()
        self._refusals = 0
        self._completed: deque[Call] = deque()
        self._is_telling = False

    def watch(self, fd: int, poll: Callable[[EventLoop], None]) -> None:
        """Have the loop poll; called in its thread.

        Args:
            fd: readable when workers have sent something. It is duplicated: the backend may close its own in another
                thread, while the loop still watches.
            poll: called with this object when ``fd`` is readable; does not wait.
        """
        self._poll = poll
        self._fd = os.dup(fd)
        self._add_reader()

    @property
    def is_running(self) -> bool:
        """Whether the loop polls, now or as soon as its current callback returns."""
        return self._loop.is_running()

    @property
    def is_closed(self) -> bool:
        """Whether the loop has ended for good."""
        return self._loop.is_closed()

    def put(self, call: Call) -> None:
        """Take a call that is completed, for :meth:`deliver`; any thread may call this.

        Callers are told in the order in which calls were put, whichever thread received their replies.
        """
        self._completed.append(call)

    def deliver(self) -> None:
        """Call ``on_done`` in the loop's thread: at once while it polls there, else soon; never if the loop is closed.

        At other times it would not be enough to be in that thread: the handler of a signal may be, while the loop
        sleeps and does not see what ``on_done`` does.
        """
        if self._completed:
            if self.polling_thread == threading.get_ident() and not self._is_telling:
                self._tell()
            else:
                self._call_soon(self._tell)

    def _tell(self) -> None:
        self._is_telling = True  # until an interrupt is over, at the worst: then the loop calls this
        completed = self._completed
        try:
            while completed:
                call = completed[0]
                assert call.on_done is not None
                call.on_done(call)
                completed.popleft()  # only now: a call that an interrupt hits is told twice, and not never
        except Exception:
            completed.popleft()
            raise
        finally:
            self._is_telling = False
            if completed:
                self._call_soon(self._tell)

    def note_poll(self, was_leader: bool) -> None:
        """Take whether a poll received anything, or another thread did; called in the loop's thread.

        The descriptor stays readable until that thread has received all. The loop must not spin meanwhile.
        """
        if was_leader:
            self._refusals = 0
            return
        self._refusals += 1
        if self._refusals > _MAX_REFUSALS and self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.call_later(_PAUSE_S, self._add_reader)

    def detach(self) -> None:
        """Have the loop poll no more; can be called from any thread."""
        if self._fd < 0:
            return
        if self._loop.is_closed():
            self._close()
            self._completed.clear()
        elif self._is_own_thread():
            self._loop.remove_reader(self._fd)
            self._close()
        else:
            self._call_soon(self.detach)  # if the loop is closed before, the destructor closes the descriptor

    def _add_reader(self) -> None:
        if self._fd >= 0:
            # In an empty context: the loop would hold the context variables of this caller for as long as it polls.
            Context().run(self._loop.add_reader, self._fd, self._poll, self)

    def _is_own_thread(self) -> bool:
        """Whether nobody but the calling thread can be running the loop now."""
        if not self._loop.is_running():
            return self._thread == threading.get_ident()
        from asyncio import _get_running_loop

        return _get_running_loop() is self._loop

    def _call_soon(self, function: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed: nobody is told any more
            self._completed.clear()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
