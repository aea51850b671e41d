"""The requests that wait, in groups: those of a group can be joined into one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from .batch_times import BatchTimes
from .request import INF, InferRequest

#: Batches may be as small as makes the time that any batch takes this part of the time of its rows.
_FIXED_SHARE = 0.15
#: Rows that take one worker longer are shared with those that are idle. To wake a worker, and to give it a batch, takes
#: 0.1 ms of several processes.
_SHARED_S = 3e-4


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

    Attributes:
        times: how long batches take; whoever computes them tells it.
    """

    def __init__(self, max_rows: int, max_delay_s: float, workers: int) -> None:
        """Make an empty queue.

        Args:
            max_rows: rows of a batch; a group of as many is full.
            max_delay_s: how long a group that is not full waits for more.
            workers: how many compute batches at the same time.
        """
        self._workers = workers
        self._max_rows = max_rows
        self._max_delay_s = max_delay_s
        self._groups: dict[int, Group] = {}
        self._count = 0
        self.times = BatchTimes()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[InferRequest]:
        for group in self._groups.values():
            yield from group.requests

    def add(self, request: InferRequest) -> bool:
        """Add a request behind those of its group; return whether the group makes a whole batch now."""
        key = _key(request)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group()
        group.requests.append(request)
        group.rows += request.rows
        self._count += 1
        return group.rows >= self._max_rows

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

    def may_go_ahead(self, group: Group) -> bool:
        """Whether a batch of a group may go to a worker that still computes another.

        It may if it is full. If rows can be computed in small batches as quickly as in a large one, it also may if it
        has as many rows as the last batch: then the clients of that one are all back.
        """
        if group.rows >= self._max_rows:
            return True
        return group.rows >= self.times.last_rows and self._is_divisible(group.rows)

    def take(self, group: Group, idle: int) -> list[InferRequest]:
        """Take the requests of one batch out of a group.

        If several workers are idle, each gets its share of the rows: clients that send their next requests when they
        are answered would otherwise keep one worker busy with all of them, and leave the others idle. Where small
        batches cost no more, each gets two, so that it computes one while the clients of the other are answered. A
        batch of a model of fixed size is filled, as it takes as long however many rows it has. Nor are rows shared that
        one worker computes before others have woken up.
        """
        max_rows = self._max_rows
        places = idle + self._workers if self._is_divisible(group.rows / (idle + self._workers)) else idle
        if places > 1 and self.times.expect_s(group.rows) > _SHARED_S:
            share = -(-group.rows // places)
            max_rows = min(max_rows, max(share, group.requests[0].layout.fixed_rows or 1))
        taken = group.take(max_rows)
        self._count -= len(taken)
        self._drop_if_empty(taken[0], group)
        return taken

    def _is_divisible(self, rows: float) -> bool:
        """Whether batches of so many rows take hardly longer, row by row, than larger ones."""
        return self.times.fixed_s <= _FIXED_SHARE * rows * self.times.row_s

    def _drop_if_empty(self, request: InferRequest, group: Group) -> None:
        if not group.requests:
            del self._groups[_key(request)]


def _key(request: InferRequest) -> int:
    return -id(request) if request.is_alone else request.key  # keys are above zero
