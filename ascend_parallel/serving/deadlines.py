"""The deadlines of the requests that wait or run, and the wait until all of them are done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from .request import INF, InferRequest


class Deadlines:
    """Fails the requests whose time is over. All methods run in the event loop's thread.

    Attributes:
        next_s: the earliest deadline that is watched; inf for none. Who adds a request with an earlier one calls
            :meth:`watch`: most requests need no call.
    """

    def __init__(
        self, open_requests: Callable[[], Iterable[InferRequest]], fail: Callable[[InferRequest, float], None]
    ) -> None:
        """Begin without requests.

        Args:
            open_requests: returns those that are not done.
            fail: fails one that is late, at the time given (``time.monotonic``).
        """
        self.next_s = INF
        self._open_requests = open_requests
        self._fail = fail
        self._timer: asyncio.TimerHandle | None = None
        self._idle: list[asyncio.Future[None]] = []

    def watch(self, deadline_s: float) -> None:
        """Look for late requests at this time, which is earlier than ``next_s``."""
        if self._timer is not None:
            self._timer.cancel()
        self.next_s = deadline_s
        delay_s = max(0.0, deadline_s - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._check)

    def _check(self) -> None:
        self._timer = None
        self.next_s = INF
        now_s = time.monotonic()
        for request in list(self._open_requests()):
            if request.deadline_s <= now_s and not request.is_done:
                self._fail(request, now_s)
        next_s = min((request.deadline_s for request in self._open_requests()), default=INF)
        if next_s < self.next_s:  # who was told may have sent a request with an earlier one
            self.watch(next_s)

    async def drain(self, timeout_s: float) -> None:
        """Wait until all requests are done, for at most so long."""
        if any(self._open_requests()):
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(done)
            await asyncio.wait([done], timeout=timeout_s)

    def note_done(self) -> None:
        """Look whether all requests are done, if anybody waits for that."""
        if self._idle and not any(self._open_requests()):
            for done in self._idle:
                if not done.done():
                    done.set_result(None)
            self._idle.clear()
