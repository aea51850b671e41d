"""Arrays in shared memory, both sides.

A segment is a ``memfd``: it has no name, so nothing is left behind whatever is killed, and neither the
size of /dev/shm nor its permissions matter. Its descriptor travels once, over a side channel (a Unix
socket) next to the pipe; each side maps it once. Arrays lie in it at offsets that messages name.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import socket
import struct
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple

import numpy as np

#: Offsets are multiples of this: a cache line, and what vector units and DMA engines like.
ALIGNMENT_BYTES = 64

_MFD_CLOEXEC = 1
_ANNOUNCEMENT = struct.Struct("!qq")  # number and size in bytes of the segment whose descriptor rides along


def align(size_bytes: int) -> int:
    """Round a size up to the alignment of arrays."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def create_memfd(size_bytes: int) -> int:
    """Return the descriptor of a new anonymous shared memory file of this size, all zeros."""
    fd = _memfd_create()
    try:
        os.ftruncate(fd, size_bytes)
    except OSError:
        os.close(fd)
        raise
    return fd


def _memfd_create() -> int:
    create = getattr(os, "memfd_create", None)
    if create is not None:
        return int(create("ascend_parallel"))
    libc = ctypes.CDLL(None, use_errno=True)  # Python 3.7 lacks the call, its C library does not
    fd = libc.memfd_create(b"ascend_parallel", ctypes.c_uint(_MFD_CLOEXEC))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "memfd_create failed")
    return int(fd)


class SharedArray:
    """One input or output of a whole call in shared memory, handed out chunk by chunk.

    Chunk lies behind chunk, each contiguous.

    Attributes:
        whole: all of it; one-dimensional where the rows are not along the first axis.
    """

    def __init__(
        self, buffer: Any, offset: int, dtype: str, shape: Sequence[int], axis: Optional[int], writeable: bool
    ) -> None:
        """Look at a shared array of a mapped segment.

        Args:
            buffer: the segment's memory.
            offset: where the shared array begins, in bytes.
            dtype: as numpy's ``dtype.str``.
            shape: with all rows, padding included.
            axis: which axis holds the rows; None where every chunk is the whole.
            writeable: whether arrays of it may be written to.
        """
        self._shape = tuple(shape)
        self._axis = axis
        self._row_items = 1
        if axis:
            for size in self._shape[:axis] + self._shape[axis + 1 :]:
                self._row_items *= size
            shape = (self._shape[axis] * self._row_items,)
        self.whole: np.ndarray = np.ndarray(shape, dtype, buffer, offset)
        self.whole.flags.writeable = writeable

    def rows(self, start: int, count: int) -> np.ndarray:
        """Return the array of some rows of one chunk; the whole where the shared array is not sliced."""
        found = self.whole
        if self._axis == 0:
            found = found[start : start + count]
        elif self._axis is not None:
            flat = found[start * self._row_items : (start + count) * self._row_items]
            found = flat.reshape(self._shape[: self._axis] + (count,) + self._shape[self._axis + 1 :])
        return found


def send_segment(side: socket.socket, number: int, size_bytes: int, fd: int) -> None:
    """Announce a segment to the other side and hand over its descriptor."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    side.sendmsg([_ANNOUNCEMENT.pack(number, size_bytes)], rights)


def receive_segment(side: socket.socket) -> Tuple[int, int, int]:
    """Return (number, size in bytes, descriptor) of the next announced segment; waits for it.

    Raises EOFError where the other end is closed.
    """
    room = socket.CMSG_SPACE(array.array("i").itemsize)
    flags = socket.MSG_WAITALL | socket.MSG_CMSG_CLOEXEC
    data, ancillary, _, _ = side.recvmsg(_ANNOUNCEMENT.size, room, flags)
    if len(data) < _ANNOUNCEMENT.size or not ancillary:
        raise EOFError("the side channel is closed")
    number, size_bytes = _ANNOUNCEMENT.unpack(data)
    return number, size_bytes, int.from_bytes(ancillary[0][2], "little")


class MappedSegments:
    """The worker's view of shared memory: the master's segments, mapped when first named."""

    def __init__(self, side: socket.socket) -> None:
        self._side = side
        self._mapped: Dict[int, mmap.mmap] = {}
        self._own_number = 0

    def shared_array(self, reference: Any, writeable: bool) -> SharedArray:
        """Return the shared array that a reference of the wire format names.

        Inputs are not writeable: the same bytes may be read by other workers, or again by a retry.
        """
        segment, offset, dtype, shape, axis = reference
        return SharedArray(self._map(segment), offset, dtype, shape, axis, writeable)

    def forget(self, numbers: Iterable[int]) -> None:
        """Unmap segments that the master has given up."""
        for number in numbers:
            self._mapped.pop(number, None)  # unmapped when the last array in it is gone

    def publish(self, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
        """Hand arrays to the master in a segment of our own; returns their references.

        For outputs whose shapes the master could not know. The master copies them out and unmaps.
        """
        offsets = [0]
        for item in arrays:
            offsets.append(align(offsets[-1] + item.nbytes))
        self._own_number -= 1  # below zero, so that it never is one of the master's numbers
        size_bytes = max(offsets[-1], 1)
        fd = create_memfd(size_bytes)
        try:
            view = mmap.mmap(fd, size_bytes)
            references = []
            for item, offset in zip(arrays, offsets):
                np.copyto(np.ndarray(item.shape, item.dtype, view, offset), item)
                references.append((self._own_number, offset, item.dtype.str, item.shape, None))
            send_segment(self._side, self._own_number, size_bytes, fd)
        finally:
            os.close(fd)
        return references

    def _map(self, number: int) -> mmap.mmap:
        while number not in self._mapped:
            announced, size_bytes, fd = receive_segment(self._side)
            try:
                self._mapped[announced] = mmap.mmap(fd, size_bytes)
            finally:
                os.close(fd)
        return self._mapped[number]
