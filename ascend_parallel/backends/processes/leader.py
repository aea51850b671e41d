"""Who hears the workers: the thread that waits for a call, or, where none does, a thread in the background.

A thread that waits for its own call might as well read the pipes itself: then an answer reaches it without a
second thread being woken in between, which at small sizes is most of the time of a call. So there is one seat
of the listener, and whoever waits takes it if it is free. The background thread listens for what nobody comes for:
calls of ``submit``, builds, answers that let a waiting task go. It takes over when the seat's owner leaves with any of
that still owed. Who comes back for a call (``map``) leaves its answer in the pipe until then.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable

#: Python looks for signals before it waits, not while it begins to: a Ctrl-C in between is seen when the wait ends.
#: So no thread that may be the main one waits for longer at a time.
SIGNAL_LATENCY_S = 1.0
#: How long the thread that listens may take to leave when the runner closes: all it has to do is to wake up.
_LEAVE_GRACE_S = 5.0


class LeaderFollowers:
    """The pipes of all workers, and the one thread that listens to them at a time.

    Attributes:
        epoll: where workers register their pipes.
    """

    def __init__(self, lock: threading.Lock, hear: Callable[[int], None], is_needed: Callable[[], bool]) -> None:
        """Prepare; nothing listens yet.

        Args:
            lock: guards the state that ``is_needed`` looks at.
            hear: called with the descriptor of a pipe that has something to say; takes the lock itself.
            is_needed: whether there is anything to listen for; called with the lock held.
        """
        self.epoll = select.epoll()
        self._lock = lock
        self._hear = hear
        self._is_needed = is_needed
        self._owner: int | None = None
        self._is_wanted_next = False
        self._nudge_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.epoll.register(self._nudge_fd, select.EPOLLIN)
        self._wanted = threading.Event()
        self._is_closing = False
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ascend-parallel-listener", daemon=True)
        self._thread.start()

    @property
    def owner(self) -> int | None:
        """The thread that listens now; None where none does."""
        return self._owner

    def listen_until(self, is_over: Callable[[], bool]) -> bool:
        """Listen in the calling thread until ``is_over``; return False at once where another thread listens."""
        if not self._take_seat():
            return False
        try:
            while not is_over():
                self._listen_once()
        finally:
            self._leave_seat()
        return True

    def glance(self) -> None:
        """Hear what has been said already, without waiting; for a thread that will listen, or want, if need be."""
        if self._take_seat():
            try:
                self._listen_once(0.0)
            finally:
                self._leave_seat(hand_over=False)

    @property
    def background(self) -> int | None:
        """The thread in the background."""
        return self._thread.ident

    def leave(self) -> None:
        """Free the seat where an interrupt kept the calling thread from doing so."""
        if self._owner == threading.get_ident():
            self._leave_seat()

    def want(self) -> None:
        """Have the background thread listen, at once or when the thread leaves that does; the lock is held."""
        if self._owner is None:
            self._wanted.set()
        else:
            self._is_wanted_next = True

    def nudge(self) -> None:
        """Have the listening thread, if it is another, look again whether it is done; the lock is held."""
        if self._owner is not None and self._owner != threading.get_ident():
            os.eventfd_write(self._nudge_fd, 1)

    def close(self) -> None:
        """End the background thread; the pipes are closed already, and no call is open."""
        with self._lock:
            self._is_closing = True
            self._wanted.set()
            self.nudge()
            if self._owner is None:
                self._left.set()
        self._thread.join()
        if self._left.wait(_LEAVE_GRACE_S):  # a thread that was about to leave must not meet a closed epoll
            self.epoll.close()
            os.close(self._nudge_fd)

    def _run(self) -> None:
        while not self._is_closing:
            self._wanted.wait()
            self._wanted.clear()
            try:
                self._listen_in_background()
            except BaseException:  # a fault of ours, or of a callback: whoever waits must not wait for ever
                report_exception()

    def _listen_in_background(self) -> None:
        if self._take_seat(or_next=True):
            try:
                while self._must_go_on():
                    self._listen_once()
            finally:
                self._leave_seat()

    def _must_go_on(self) -> bool:
        with self._lock:
            return self._is_needed() and not self._is_closing

    def _take_seat(self, *, or_next: bool = False) -> bool:
        with self._lock:
            if self._owner is not None or self._is_closing:
                self._is_wanted_next = self._is_wanted_next or or_next
                return False
            self._owner = threading.get_ident()
            return True

    def _leave_seat(self, *, hand_over: bool = True) -> None:
        with self._lock:
            self._owner = None
            hand_over = hand_over or self._is_wanted_next
            self._is_wanted_next = False
            if self._is_closing:
                self._left.set()
            elif hand_over and self._is_needed():
                self._wanted.set()

    def _listen_once(self, timeout_s: float = SIGNAL_LATENCY_S) -> None:
        for fd, _ in self.epoll.poll(timeout_s):
            if fd == self._nudge_fd:
                os.eventfd_read(fd)
            else:
                self._hear(fd)


def report_exception() -> None:
    """Print the exception that is handled as Python prints one that ends a thread, where it is not to end it."""
    threading.excepthook(threading.ExceptHookArgs([*sys.exc_info(), threading.current_thread()]))
