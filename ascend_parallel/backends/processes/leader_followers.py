"""Which thread polls the workers' pipes: the Leader/Followers pattern.

A thread that waits for its own call may as well poll the pipes itself. Then a reply reaches it without a second thread
being woken in between, which at small sizes is most of the time of a call. So one thread at a time is the leader: a
thread that waits for a call becomes the leader if there is none. A background thread becomes the leader where replies
are owed that no thread waits for: those of ``submit``, of builds, replies that let a queued task go, and those of
callers that found another leader. It takes over when a leader steps down while such replies are owed. A caller that
comes back for its call (``map``) leaves the reply in the pipe until then.

Source: D. Schmidt, C. O'Ryan, M. Kircher, I. Pyarali, F. Buschmann, "Leader/Followers: A Design Pattern for Efficient
Multi-threaded Event Demultiplexing and Dispatching", 2000.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ascend_parallel.backends.unhandled import report_exception
from ascend_parallel.waiting import SIGNAL_LATENCY_S

#: How long the leader may take to step down when the backend closes: all it has to do is to wake up.
_STEP_DOWN_GRACE_S = 5.0


#: (descriptor, event) of each pipe that is ready, as epoll reports them.
Events = Sequence[tuple[int, int]]


class Awaited(Protocol):
    """What a leader waits for: a call."""

    is_open: bool
    is_led: bool


class LeaderFollowers:
    """The pipes of all workers, and the one thread at a time that polls them.

    Attributes:
        epoll: where workers register their pipes.
        leader: the thread that polls now; None where none does. Guarded by the backend's lock.
        background: the background thread.
    """

    def __init__(
        self,
        lock: threading.Lock,
        receive: Callable[[Sequence[tuple[int, int]]], None],
        has_unattended: Callable[[], bool],
    ) -> None:
        """Start the background thread; there is no leader yet.

        Args:
            lock: guards ``leader`` and the state that ``has_unattended`` looks at.
            receive: called with (descriptor, event) of the pipes that have something to read; takes the lock itself.
            has_unattended: whether replies are owed that no thread waits for; called with the lock held.
        """
        self.epoll = select.epoll()
        self.leader: int | None = None
        self._lock = lock
        self._receive = receive
        self._has_unattended = has_unattended
        self._is_requested = False
        self._is_closing = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.epoll.register(self._wake_fd, select.EPOLLIN)
        self._request = threading.Event()
        self._stepped_down = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ascend-parallel-leader", daemon=True)
        self._thread.start()
        self.background = self._thread.ident

    # ---- for threads that wait

    def run_until_done(self, call: Awaited, until_s: float = float("inf")) -> bool:
        """Lead until the call is not open any more, or until a time of ``time.monotonic``.

        Return False at once where there is another leader.
        """
        if not self._become_leader():
            return False
        try:
            call.is_led = True
            while call.is_open:
                timeout_s = SIGNAL_LATENCY_S
                if until_s != float("inf"):
                    timeout_s = until_s - time.monotonic()
                    if timeout_s <= 0.0:
                        break
                self._poll(timeout_s)
        finally:
            call.is_led = False
            self._step_down()
        return True

    def poll(self) -> bool:
        """Receive what has arrived already, without waiting; return False where there is another leader."""
        if not self._become_leader():
            return False
        try:
            self._poll(0.0)
        finally:
            self._step_down(hand_over=False)
        return True

    def abdicate(self) -> None:
        """Step down where an interrupt kept the calling thread from doing so."""
        if self.leader == threading.get_ident():
            self._step_down()

    # ---- for threads that hold the lock

    def request_leader(self) -> None:
        """Have the background thread lead, at once or when the leader steps down; the lock is held."""
        if self.leader is None:
            self._request.set()
        else:
            self._is_requested = True

    def wake(self) -> None:
        """Have the leader, if it is another thread, look again whether its call is done; the lock is held."""
        if self.leader is not None and self.leader != threading.get_ident():
            os.eventfd_write(self._wake_fd, 1)

    # ---- the end

    def close(self) -> None:
        """End the background thread; the pipes are closed already, and no call is open."""
        with self._lock:
            self._is_closing = True
            self._request.set()
            self.wake()
            if self.leader is None:
                self._stepped_down.set()
        self._thread.join()
        if self._stepped_down.wait(_STEP_DOWN_GRACE_S):  # no leader that steps down may meet a closed epoll
            self.epoll.close()
            os.close(self._wake_fd)

    # ---- inside

    def _run(self) -> None:
        while not self._is_closing:
            self._request.wait()
            self._request.clear()
            try:
                self._lead_in_background()
            except BaseException:  # a fault of ours, or of a callback: whoever waits must not wait for ever
                report_exception()

    def _lead_in_background(self) -> None:
        if self._become_leader(or_next=True):
            try:
                while self._must_go_on():
                    self._poll(SIGNAL_LATENCY_S)
            finally:
                self._step_down()

    def _must_go_on(self) -> bool:
        with self._lock:
            return self._has_unattended() and not self._is_closing

    def _become_leader(self, *, or_next: bool = False) -> bool:
        with self._lock:
            if self.leader is not None or self._is_closing:
                self._is_requested = self._is_requested or or_next
                return False
            self.leader = threading.get_ident()
            return True

    def _step_down(self, *, hand_over: bool = True) -> None:
        with self._lock:
            if self.leader != threading.get_ident():  # it has abdicated, and there may be another
                return
            self.leader = None
            hand_over = hand_over or self._is_requested
            self._is_requested = False
            if self._is_closing:
                self._stepped_down.set()
            elif hand_over and self._has_unattended():
                self._request.set()

    def _poll(self, timeout_s: float) -> None:
        events = self.epoll.poll(timeout_s)
        for event in events:
            if event[0] == self._wake_fd:
                os.eventfd_read(self._wake_fd)
                events.remove(event)
                break
        if events:
            self._receive(events)
