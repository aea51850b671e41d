"""The memory that the bodies of requests take."""

from __future__ import annotations

from ascend_parallel.errors import OverloadedError

#: Bodies of fewer bytes are not counted: the queue bounds their number.
UNCOUNTED_BYTES = 10_000


class PendingBytes:
    """Counts the bytes of the requests that are being received, wait or run, and keeps them below a limit.

    Attributes:
        count: bytes now.
    """

    def __init__(self, limit: int) -> None:
        """Take how many there may be."""
        self.count = 0
        self._limit = limit

    def add(self, size: int) -> None:
        """Count the bytes of a request; raises OverloadedError where they are too many."""
        if self.count + size > self._limit:
            raise OverloadedError(
                f"the server has no memory for this request: the bodies of others take {self.count} bytes, and all may "
                f"take {self._limit}, the server's max_pending_bytes; try again later"
            )
        self.count += size

    def remove(self, size: int) -> None:
        """Take back what was counted, as the request is answered."""
        self.count -= size
