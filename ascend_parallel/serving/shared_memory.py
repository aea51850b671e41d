"""Triton's system shared memory extension: tensors in files of /dev/shm that a client on this host has made.

The files are read and written by their descriptors, never mapped: a client can shorten a file at any time, and touching
a mapping beyond the end of its file ends the process (SIGBUS). ``pread`` just returns less. That copies an input once,
to memory that the client cannot change any more, and an output once, to the file. Where requests are joined, and for
small inputs, the input is copied once more, into the batch.

Source: Triton Inference Server, "Shared-Memory Extension".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import NotFoundError, ShapeError, TooLargeError, UsageError

from .bytes_tensor import decode, encode
from .datatypes import BYTES
from .infer_head import TensorRef

#: Where POSIX shared memory lies on Linux.
_FOLDER = "/dev/shm"
#: Each region keeps a descriptor open, and a process may often have 1024 only.
_MAX_REGIONS = 512
_MAX_NAME_CHARS = 1024
#: Offsets in files are less.
_MAX_OFFSET = 1 << 63
#: Allocates an array of a shape and a dtype.
Empty = Callable[[tuple[int, ...], np.dtype[Any]], Array]


class Region(NamedTuple):
    """A piece of a file.

    Attributes:
        name: the client's name of it.
        key: the file's name, as the client gave it.
        offset: where it begins in the file, in bytes.
        byte_size: its size.
        descriptor: of the file, open for reading and writing.
    """

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int


class SharedMemory:
    """The regions that clients have registered. All methods run in the event loop's thread."""

    def __init__(self, prefix: str) -> None:
        """Begin without regions.

        Args:
            prefix: what the names of the files begin with.
        """
        self._prefix = prefix
        self._regions: dict[str, Region] = {}

    # ---- registration

    def describe(self, name: str = "") -> list[dict[str, Any]]:
        """Return one region, or all, as the protocol shows them; raises NotFoundError."""
        regions = [self._find(name)] if name else self._regions.values()
        fields = ("name", "key", "offset", "byte_size")
        return [{field: getattr(region, field) for field in fields} for region in regions]

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open a region.

        Args:
            name: the client's name of it.
            key: a file's name below /dev/shm; a slash may lead it, as in ``shm_open``.
            offset: where the region begins in the file, in bytes.
            byte_size: its size.

        Raises:
            UsageError: there is a region of this name, or the file is not one that clients may use, or is too small.
        """
        what = f"shared-memory region {name!r:.200}"
        if not 0 < len(name) <= _MAX_NAME_CHARS:
            raise UsageError(f"{what}: the name is to have 1 to {_MAX_NAME_CHARS} characters")
        if name in self._regions:
            raise UsageError(f"{what} is registered already; unregister it first")
        if len(self._regions) >= _MAX_REGIONS:
            raise UsageError(f"{what}: {_MAX_REGIONS} regions are registered already; unregister one first")
        if not (0 <= offset < _MAX_OFFSET and 0 < byte_size < _MAX_OFFSET):
            raise UsageError(
                f"{what}: offset is {offset} and byte_size is {byte_size}; expected at least 0, and at least 1"
            )
        path = self._path(what, key)
        descriptor = _open(what, path)
        try:
            _check_size(what, path, descriptor, offset + byte_size)
        except UsageError:
            os.close(descriptor)
            raise
        self._regions[name] = Region(name, key, offset, byte_size, descriptor)

    def _path(self, what: str, key: str) -> str:
        name = key.removeprefix("/")
        if "/" in name or not name.startswith(self._prefix) or not name.isprintable():
            raise UsageError(
                f"{what}: the key is {key!r:.200}; this server takes names of files in {_FOLDER} that begin with "
                f"{self._prefix!r}"
            )
        return f"{_FOLDER}/{name}"

    def unregister(self, name: str = "") -> None:
        """Forget one region, or all. One that is not registered is no error, as clients unregister to be sure."""
        for found in [name] if name else list(self._regions):
            region = self._regions.pop(found, None)
            if region is not None:
                os.close(region.descriptor)

    # ---- tensors

    def find(self, what: str, name: str, offset: int, byte_size: int) -> Region:
        """Return the region in which a tensor lies.

        Args:
            what: the tensor, for messages.
            name: of the region.
            offset: where the tensor begins in the region, in bytes.
            byte_size: the tensor's size.

        Raises:
            NotFoundError: there is no such region.
            ShapeError: the tensor would lie beyond its end.
        """
        region = self._find(name)
        if offset + byte_size > region.byte_size:
            raise ShapeError(
                f"{what}: {byte_size} bytes from offset {offset} on are beyond the shared-memory region {name!r}, "
                f"which has {region.byte_size} bytes"
            )
        return region

    def _find(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            raise NotFoundError(f"there is no shared-memory region {name!r:.200}; register it first")
        return region

    def read_inputs(
        self, refs: Sequence[TensorRef], arrays: Sequence[Array | None], max_bytes: int, empty: Empty
    ) -> list[Array]:
        """Return the inputs of a request, with copies of those that lie in regions.

        Args:
            refs: the inputs.
            arrays: those that the request itself has; None for the others.
            max_bytes: of all inputs in regions together.
            empty: allocates the memory of a copy.

        Raises:
            NotFoundError, ShapeError: as :meth:`find`.
            UsageError: the file ends before the input does, or cannot be read.
            TooLargeError: there are more than ``max_bytes``.
        """
        size_bytes = sum(ref.size_bytes for ref in refs if ref.region is not None)
        if size_bytes > max_bytes:
            raise TooLargeError(
                f"the inputs in shared memory have {size_bytes} bytes; the server's max_body_bytes is {max_bytes}"
            )
        pairs = zip(refs, arrays, strict=True)
        return [self._read(ref, empty) if array is None else array for ref, array in pairs]

    def _read(self, ref: TensorRef, empty: Empty) -> Array:
        assert ref.region is not None
        name, offset = ref.region
        what = f"input {ref.name!r}"
        region = self.find(what, name, offset, ref.size_bytes)
        is_text = ref.dtype is BYTES
        array = np.empty(ref.size_bytes, np.uint8) if is_text else empty(ref.shape, ref.dtype)
        view = _bytes_of(array)
        at = region.offset + offset
        try:
            while view.nbytes:
                count = os.preadv(region.descriptor, [view], at)
                if not count:
                    raise UsageError(
                        f"input {ref.name!r}: the file of the shared-memory region {name!r} has become shorter"
                    )
                view, at = view[count:], at + count
        except OSError as error:
            raise UsageError(f"{what}: the shared-memory region {name!r} cannot be read: {error.strerror}") from None
        return decode(what, array, ref.shape) if is_text else array

    def write(self, output: str, place: tuple[str, int, int], array: Array) -> None:
        """Write an output to a region.

        Args:
            output: the name of the output.
            place: (name of the region, offset in it in bytes, size in bytes that the output may have there).
            array: the output.

        Raises:
            NotFoundError, ShapeError: as :meth:`find`, or the output is larger than its place.
            UsageError: the file has become shorter, or cannot be written.
        """
        name, offset, byte_size = place
        what = f"output {output!r}"
        region = self.find(what, name, offset, byte_size)
        if array.dtype is BYTES:
            array = encode(array)
        if array.nbytes > byte_size:
            raise ShapeError(f"{what} has {array.nbytes} bytes, but its shared_memory_byte_size is {byte_size}")
        view = _bytes_of(np.ascontiguousarray(array))
        at = region.offset + offset
        # Writing beyond the end would make the file longer again. If it becomes shorter just now, that does no harm.
        _check_size(
            f"{what}: shared-memory region {name!r}", f"{_FOLDER}/{region.key}", region.descriptor, at + view.nbytes
        )
        try:
            while view.nbytes:
                count = os.pwrite(region.descriptor, view, at)
                view, at = view[count:], at + count
        except OSError as error:
            raise UsageError(f"{what}: the shared-memory region {name!r} cannot be written: {error.strerror}") from None


def _open(what: str, path: str) -> int:
    """Open a file if it is a regular one of the server's own user; no link is followed."""
    try:
        handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{what}: {path} is no regular file")
            if status.st_uid != os.geteuid():
                raise UsageError(
                    f"{what}: {path} belongs to the user {status.st_uid}, but the server runs as {os.geteuid()}"
                )
            return os.open(f"/proc/self/fd/{handle}", os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(handle)
    except OSError as error:
        raise UsageError(f"{what}: {path} cannot be opened: {error.strerror}") from None


def _check_size(what: str, path: str, descriptor: int, end: int) -> None:
    size = os.fstat(descriptor).st_size
    if end > size:
        raise UsageError(f"{what}: {path} has {size} bytes; it is to have {end} at least")


def _bytes_of(array: Array) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
