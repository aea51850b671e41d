"""The master's shared memory: segments cut into blocks, leased to calls and to the arrays they return.

A block belongs to a :class:`Allocation`, and the lease to every array that lies in it: when the last of them is
gone, the block is free again. So a caller may keep a result for as long as it likes, and memory is reused
without anybody saying so.
"""

from __future__ import annotations

import math
import mmap
import operator
import os
import threading
import time
from collections import deque
from typing import Any

import numpy as np

from ascend_parallel.errors import UsageError
from ascend_parallel.worker.memory import create_memfd

#: The smallest block: a page. Untouched pages cost nothing, so block sizes are powers of two.
PAGE_BYTES = 4096
#: A segment holds up to this many blocks, so that thousands of small results need few descriptors...
BLOCKS_PER_SEGMENT = 64
#: ...but is not larger than this for their sake.
SEGMENT_BYTES = 64 << 20
#: A segment that nobody used for so long goes back to the system.
IDLE_SEGMENT_S = 60.0


class Segment:
    """One shared memory file, mapped here, cut into blocks of one size.

    Attributes:
        number: its name in messages; never used twice.
        workers: those which have its descriptor.
        fd: -1 once it is closed, given back to the system; only arrays of a closed runner may still lie in it.
    """

    fd = -1  # for a destructor after a Ctrl-C has hit the constructor

    def __init__(self, number: int, size_bytes: int) -> None:
        self.number = number
        self.size_bytes = size_bytes
        self.fd = create_memfd(size_bytes)
        self.map = mmap.mmap(self.fd, size_bytes)
        self.address = np.frombuffer(self.map, np.uint8).ctypes.data
        self.leased = 0
        self.idle_since_s = 0.0
        self.workers: set[int] = set()

    def close(self, *, free_pages: bool) -> None:
        """Close the descriptor; with ``free_pages``, give the memory back whoever still maps it."""
        if self.fd >= 0:
            if free_pages:
                os.ftruncate(self.fd, 0)
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close(free_pages=False)


class Allocation:
    """One block, held until no array lies in it any more.

    ``np.asarray(lease)`` is its bytes: numpy asks where they are through ``__array_interface__`` and keeps the lease
    alive from then on.

    Attributes:
        segment: the segment that it is part of.
        offset: where it begins in the segment, in bytes.
        size_bytes: how much of it was asked for.
        is_callers: made by ``empty``: its owner knows that it is read in place.
    """

    __slots__ = ("_returned", "is_callers", "offset", "segment", "size_bytes")

    def __init__(self, segment: Segment, offset: int, size_bytes: int, returned: deque[Any]) -> None:
        self.offset = offset
        self.size_bytes = size_bytes
        self.is_callers = False
        self._returned = returned
        self.segment = segment  # the last: from here on, it goes back when this dies

    @property
    def address(self) -> int:
        """Where it lies in this process."""
        return self.segment.address + self.offset

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"data": (self.address, False), "shape": (self.size_bytes,), "typestr": "|u1", "version": 3}

    def at(self, offset: int) -> tuple[int, int]:
        """Return what a message says of a place in this block: the segment's number, and the offset in it."""
        return self.segment.number, self.offset + offset

    def __del__(self) -> None:
        # Runs wherever the last array dies, perhaps while this very thread holds the pool's lock: only an
        # append, which is atomic, is safe here.
        segment = getattr(self, "segment", None)  # a Ctrl-C may have hit the constructor
        if segment is not None and segment.fd >= 0:  # else the pool is closed, and nobody would take it back
            self._returned.append((segment, self.offset))


class Allocator:
    """Leases blocks of shared memory and takes them back by itself; safe from all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[int, list[tuple[Segment, int]]] = {}
        self._segments: dict[int, Segment] = {}
        self._returned: deque[tuple[Segment, int]] = deque()
        self._block_bytes: dict[Segment, int] = {}
        self._last_number = 0
        self._next_trim_s = time.monotonic() + IDLE_SEGMENT_S
        #: Numbers of segments that workers can unmap: worker's number -> segments.
        self._unmap: dict[int, list[int]] = {}

    def lease(self, size_bytes: int) -> Allocation:
        """Return a block of at least this size; its content is undefined.

        Raises OSError where the system has no more memory or descriptors.
        """
        block_bytes = max(PAGE_BYTES, 1 << max(0, size_bytes - 1).bit_length())
        with self._lock:
            self._take_back()
            free = self._free.setdefault(block_bytes, [])
            if not free:
                self._add_segment(block_bytes)
            segment, offset = free.pop()
            segment.leased += 1
        return Allocation(segment, offset, size_bytes, self._returned)

    def empty(self, shape: Any, dtype: Any) -> np.ndarray[Any, Any]:
        """Return an uninitialised array in a block of its own, for a caller to fill; raises UsageError."""
        try:
            wanted = np.dtype(dtype)
        except TypeError:
            raise UsageError(f"empty: dtype is {dtype!r}, which numpy does not know") from None
        if wanted.kind not in "biufc":  # objects would be pointers to nowhere
            raise UsageError(f"empty: dtype is {wanted}; expected numbers or booleans")
        try:
            sizes = tuple(operator.index(size) for size in (shape if np.iterable(shape) else (shape,)))
        except TypeError:
            sizes = (-1,)
        if min(sizes, default=0) < 0:
            raise UsageError(f"empty: shape is {shape!r}; expected sizes of at least 0")
        lease = self.lease(max(1, math.prod(sizes) * wanted.itemsize))
        lease.is_callers = True
        found: np.ndarray[Any, Any] = np.ndarray(sizes, wanted, np.asarray(lease))
        return found

    def held_bytes(self) -> tuple[int, int]:
        """Return (bytes leased, bytes of all segments); pages that were never written take no memory."""
        with self._lock:
            self._take_back()
            leased = sum(s.leased * self._block_bytes[s] for s in self._segments.values())
            return leased, sum(segment.size_bytes for segment in self._segments.values())

    def take_unmapped(self, worker: int) -> list[int]:
        """Return the segments that a worker can unmap, once."""
        return self._unmap.pop(worker, []) if self._unmap else []

    def close(self) -> None:
        """Give all free memory back; arrays that a caller still holds stay valid."""
        with self._lock:
            self._take_back()
            for segment in self._segments.values():
                segment.close(free_pages=segment.leased == 0)
            self._segments.clear()
            self._block_bytes.clear()
            self._free.clear()

    def _add_segment(self, block_bytes: int) -> None:
        count = max(1, min(BLOCKS_PER_SEGMENT, SEGMENT_BYTES // block_bytes))
        self._last_number += 1
        segment = Segment(self._last_number, block_bytes * count)
        self._segments[segment.number] = segment
        self._block_bytes[segment] = block_bytes
        # The first block is at the end of the list: popped first, so memory is touched from the start.
        self._free[block_bytes] += [(segment, i * block_bytes) for i in reversed(range(count))]

    def _take_back(self) -> None:
        returned = self._returned
        now_s = 0.0
        while returned:
            segment, offset = returned.popleft()
            segment.leased -= 1
            if segment.number in self._segments:
                self._free[self._block_bytes[segment]].append((segment, offset))
                if segment.leased == 0:
                    now_s = now_s or time.monotonic()
                    segment.idle_since_s = now_s
        if now_s > self._next_trim_s:
            self._trim(now_s)

    def _trim(self, now_s: float) -> None:
        """Drop the segments that were idle for long."""
        self._next_trim_s = now_s + IDLE_SEGMENT_S / 4
        for segment in list(self._segments.values()):
            if segment.leased == 0 and now_s - segment.idle_since_s > IDLE_SEGMENT_S:
                self._drop(segment)

    def _drop(self, segment: Segment) -> None:
        free = self._free[self._block_bytes.pop(segment)]
        free[:] = [entry for entry in free if entry[0] is not segment]
        del self._segments[segment.number]
        for worker in segment.workers:
            self._unmap.setdefault(worker, []).append(segment.number)
        segment.close(free_pages=True)
