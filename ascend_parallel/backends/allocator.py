"""The master's shared memory: segments cut into blocks, allocated to calls and to the arrays that they return.

A block belongs to an :class:`Allocation`, and the allocation to every array that lies in it. When the last of these
arrays is gone, the block is free again. So a caller may keep a result for as long as it likes, and no caller has to
free one.
"""

from __future__ import annotations

import itertools
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

#: One sequence for all allocators of the process: a result of one runner, given to another, is read where it lies, so
#: its segment must not be taken for one of the other's.
_segment_numbers = itertools.count(1)
#: Segments that workers can unmap, worker's number -> segments' numbers; of all allocators, likewise.
_unmap: dict[int, list[int]] = {}


class Segment:
    """One shared memory file, mapped here, cut into blocks of one size.

    Attributes:
        number: its name in messages; never used twice in this process.
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
        self.used = 0
        self.idle_since_s = 0.0
        self.workers: set[int] = set()

    def close(self, *, free_pages: bool) -> None:
        """Close the descriptor; with ``free_pages``, give the memory back, even if workers still map it."""
        if self.fd >= 0:
            if free_pages:
                os.ftruncate(self.fd, 0)
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close(free_pages=False)


class Allocation:
    """One block, held until no array lies in it any more.

    ``np.asarray(allocation)`` is its bytes: numpy asks where they are through ``__array_interface__`` and keeps the
    allocation alive from then on.

    Attributes:
        segment: the segment that it is part of.
        offset: where it begins in the segment, in bytes.
        size_bytes: how much of it was asked for.
        is_read_in_place: made by ``empty``: its owner knows that it is read in place.
    """

    __slots__ = ("_returned", "is_read_in_place", "offset", "segment", "size_bytes")

    def __init__(self, segment: Segment, offset: int, size_bytes: int, returned: deque[Any]) -> None:
        self.offset = offset
        self.size_bytes = size_bytes
        self.is_read_in_place = False
        self._returned = returned
        self.segment = segment  # the last: from here on, it goes back when this dies

    @property
    def address(self) -> int:
        """Where it lies in this process."""
        return self.segment.address + self.offset

    @property
    def __array_interface__(self) -> dict[str, Any]:
        address = self.segment.address + self.offset
        return {"data": (address, False), "shape": (self.size_bytes,), "typestr": "|u1", "version": 3}

    def at(self, offset: int) -> tuple[int, int]:
        """Return what a message says of an offset in this block: the segment's number, and the offset in it."""
        return self.segment.number, self.offset + offset

    def __del__(self) -> None:
        # Runs wherever the last array dies, perhaps while this very thread holds the pool's lock: only an
        # append, which is atomic, is safe here.
        segment = getattr(self, "segment", None)  # a Ctrl-C may have hit the constructor
        if segment is not None and segment.fd >= 0:  # else the pool is closed, and nobody would take it back
            self._returned.append((segment, self.offset))


class Allocator:
    """Allocates blocks of shared memory and takes them back by itself; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[int, list[tuple[Segment, int]]] = {}
        self._segments: dict[int, Segment] = {}
        self._returned: deque[tuple[Segment, int]] = deque()
        self._block_bytes: dict[Segment, int] = {}
        self._next_trim_s = time.monotonic() + IDLE_SEGMENT_S

    def allocate(self, size_bytes: int) -> Allocation:
        """Return a block of at least this size; its content is undefined.

        Raises OSError where the system has no more memory or descriptors.
        """
        block_bytes = PAGE_BYTES if size_bytes <= PAGE_BYTES else 1 << (size_bytes - 1).bit_length()
        with self._lock:
            if self._returned:
                self._take_back()
            free = self._free.get(block_bytes)
            if not free:
                free = self._add_segment(block_bytes)
            segment, offset = free.pop()
            segment.used += 1
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
        allocation = self.allocate(max(1, math.prod(sizes) * wanted.itemsize))
        allocation.is_read_in_place = True
        found: np.ndarray[Any, Any] = np.ndarray(sizes, wanted, np.asarray(allocation))
        return found

    def held_bytes(self) -> tuple[int, int]:
        """Return (bytes allocated, bytes of all segments); pages that were never written take no memory."""
        with self._lock:
            self._take_back()
            allocated = sum(s.used * self._block_bytes[s] for s in self._segments.values())
            return allocated, sum(segment.size_bytes for segment in self._segments.values())

    def stats(self) -> dict[str, int]:
        """Return the figures of the memory in ``ParallelPredictUtils.stats``."""
        allocated, mapped = self.held_bytes()
        return {"leased_bytes": allocated, "mapped_bytes": mapped}

    @property
    def has_unmapped(self) -> bool:
        """Whether there is a worker for which :meth:`take_unmapped` returns something."""
        return bool(_unmap)

    def take_unmapped(self, worker: int) -> list[int]:
        """Return the segments that a worker can unmap, once."""
        return _unmap.pop(worker, [])

    def close(self) -> None:
        """Give all free memory back; arrays that a caller still holds stay valid."""
        with self._lock:
            self._take_back()
            for segment in self._segments.values():
                segment.close(free_pages=segment.used == 0)
            self._segments.clear()
            self._block_bytes.clear()
            self._free.clear()

    def _add_segment(self, block_bytes: int) -> list[tuple[Segment, int]]:
        """Map a new segment; return the free blocks of its size."""
        count = max(1, min(BLOCKS_PER_SEGMENT, SEGMENT_BYTES // block_bytes))
        segment = Segment(next(_segment_numbers), block_bytes * count)
        self._segments[segment.number] = segment
        self._block_bytes[segment] = block_bytes
        # The first block is at the end of the list: popped first, so memory is touched from the start.
        free = self._free.setdefault(block_bytes, [])
        free += [(segment, i * block_bytes) for i in reversed(range(count))]
        return free

    def _take_back(self) -> None:
        returned = self._returned
        now_s = 0.0
        while returned:
            segment, offset = returned.popleft()
            segment.used -= 1
            if segment.number in self._segments:
                self._free[self._block_bytes[segment]].append((segment, offset))
                if segment.used == 0:
                    now_s = now_s or time.monotonic()
                    segment.idle_since_s = now_s
        if now_s > self._next_trim_s:
            self._trim(now_s)

    def _trim(self, now_s: float) -> None:
        """Drop the segments that were idle for long."""
        self._next_trim_s = now_s + IDLE_SEGMENT_S / 4
        for segment in list(self._segments.values()):
            if segment.used == 0 and now_s - segment.idle_since_s > IDLE_SEGMENT_S:
                self._drop(segment)

    def _drop(self, segment: Segment) -> None:
        free = self._free[self._block_bytes.pop(segment)]
        free[:] = [entry for entry in free if entry[0] is not segment]
        del self._segments[segment.number]
        for worker in segment.workers:
            _unmap.setdefault(worker, []).append(segment.number)
        segment.close(free_pages=True)
