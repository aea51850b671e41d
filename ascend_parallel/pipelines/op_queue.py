"""The requests that wait for an op, in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ascend_parallel.serving.request import INF, InferRequest


class OpQueue:
    """All requests of one op that wait. There is one group: any of them can go to a worker together.

    Attributes:
        max_requests: requests that one worker takes at a time, at most.
    """

    def __init__(self, max_requests: int, max_delay_s: float, workers: int) -> None:
        """Make an empty queue.

        Args:
            max_requests: see above.
            max_delay_s: how long a batch that is not full waits for more.
            workers: how many there are; a batch is no more than the share of each.
        """
        self.max_requests = max_requests
        self._max_delay_s = max_delay_s
        self._workers = workers
        self._requests: deque[InferRequest] = deque()

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[InferRequest]:
        return iter(self._requests)

    def add(self, request: InferRequest) -> bool:
        """Add a request behind those that are there; return whether there are enough for a whole batch now."""
        self._requests.append(request)
        return len(self._requests) >= self.max_requests

    def remove(self, request: InferRequest) -> bool:
        """Take a request out; return whether it was there."""
        try:
            self._requests.remove(request)
        except ValueError:
            return False
        return True

    def choose(self, now_s: float) -> tuple[OpQueue | None, float]:
        """Return the group of the next batch; None, and when to look again, where all wait for more requests."""
        first = self._requests[0]
        ready_s = first.arrived_s + self._max_delay_s
        if ready_s > now_s and not first.is_alone and not self.may_go_ahead(self):
            return None, ready_s
        return self, INF

    def may_go_ahead(self, group: OpQueue) -> bool:
        """Whether there are enough for a whole batch, which then may go to a worker that still computes another."""
        return len(self._requests) >= self.max_requests

    def take(self, group: OpQueue, idle: int) -> list[InferRequest]:
        """Take the requests of one batch: no more than the share of each worker, idle or not."""
        requests = self._requests
        taken = [requests.popleft()]
        if not taken[0].is_alone:
            share = -(-(len(requests) + 1) // self._workers)
            count = min(self.max_requests, share)
            while len(taken) < count and requests and not requests[0].is_alone:
                taken.append(requests.popleft())
        return taken
