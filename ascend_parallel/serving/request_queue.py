"""The requests that wait, in groups: those of a group can be joined into one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator

from .request import INF, InferRequest


class Group:
    """Requests that can be joined, in the order of their arrival.

    Attributes:
        requests: the requests.
        rows: of all of them.
    """

    __slots__ = ("requests", "rows")

    def __init__(self) -> None:
        self.requests: deque[InferRequest] = deque()
        self.rows = 0

    def take(self, max_rows: int) -> list[InferRequest]:
        """Take the requests of one batch: the first, and the next ones as long as they fit."""
        taken = [self.requests.popleft()]
        rows = taken[0].rows
        while self.requests and rows + self.requests[0].rows <= max_rows:
            taken.append(self.requests.popleft())
            rows += taken[-1].rows
        self.rows -= rows
        return taken


class RequestQueue:
    """All requests of one model that wait.

    ``len()`` is how many there are; iterating yields them, group by group.
    """

    def __init__(self, max_rows: int, max_delay_s: float) -> None:
        """Make an empty queue.

        Args:
            max_rows: rows of a batch; a group of as many is full.
            max_delay_s: how long a group that is not full waits for more.
        """
        self._max_rows = max_rows
        self._max_delay_s = max_delay_s
        self._groups: dict[Hashable, Group] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[InferRequest]:
        for group in self._groups.values():
            yield from group.requests

    def add(self, request: InferRequest) -> None:
        """Add a request behind those of its group."""
        key = _key(request)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group()
        group.requests.append(request)
        group.rows += request.rows
        self._count += 1

    def remove(self, request: InferRequest) -> bool:
        """Take a request out; return whether it was there."""
        group = self._groups.get(_key(request))
        if group is None or request not in group.requests:
            return False
        group.requests.remove(request)
        group.rows -= request.rows
        self._drop_if_empty(request, group)
        self._count -= 1
        return True

    def choose(self, now_s: float) -> tuple[Group | None, float]:
        """Return the group of the next batch, and when to look again where all wait for more requests.

        It is the one whose first request has waited longest, of those that are full or have waited long enough.
        """
        if not self._max_delay_s and len(self._groups) == 1:
            return next(iter(self._groups.values())), INF
        latest_s = now_s - self._max_delay_s
        oldest_s = next_s = INF
        chosen = None
        for group in self._groups.values():
            first = group.requests[0]
            if first.arrived_s > latest_s and group.rows < self._max_rows and not first.is_alone:
                next_s = min(next_s, first.arrived_s + self._max_delay_s)
            elif first.arrived_s < oldest_s:
                oldest_s, chosen = first.arrived_s, group
        return chosen, next_s

    def is_full(self, group: Group) -> bool:
        """Whether a group makes a whole batch."""
        return group.rows >= self._max_rows

    def take(self, group: Group, idle: int) -> list[InferRequest]:
        """Take the requests of one batch out of a group.

        If several workers are idle, each gets its share of the rows: clients that send their next requests when they
        are answered would otherwise keep one worker busy with all of them, and leave the others idle. A batch of a
        model of fixed size is filled, as it takes as long however many rows it has.
        """
        max_rows = self._max_rows
        if idle > 1:
            share = -(-group.rows // idle)
            max_rows = min(max_rows, max(share, group.requests[0].layout.fixed_rows or 1))
        taken = group.take(max_rows)
        self._count -= len(taken)
        self._drop_if_empty(taken[0], group)
        return taken

    def _drop_if_empty(self, request: InferRequest, group: Group) -> None:
        if not group.requests:
            del self._groups[_key(request)]


def _key(request: InferRequest) -> Hashable:
    return id(request) if request.is_alone else request.key
