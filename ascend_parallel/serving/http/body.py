"""The body of an infer request as it arrives: small ones as bytes, tensors of large ones straight in shared memory."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import AscendParallelError, TooLargeError, UsageError
from ascend_parallel.serving.pending_bytes import UNCOUNTED_BYTES, PendingBytes
from ascend_parallel.serving.request import LARGE_BYTES
from ascend_parallel.serving.served import Served

#: What the header content-encoding may say.
_ENCODINGS = (None, b"identity", b"gzip", b"deflate")


class Body:
    """Collects a body: its JSON, and the bytes behind it."""

    def __init__(self, headers: dict[bytes, bytes], limit: int, pending: PendingBytes) -> None:
        """Begin.

        Args:
            headers: of the request.
            limit: bytes at most.
            pending: counts the bytes of all bodies.
        """
        self._headers = headers
        self._limit = limit
        self._pending = pending
        self._reserved = 0
        self._parts: list[bytes] = []
        self._block: Array | None = None
        self._size = 0
        self._head_size = 0

    def reserve(self, size: int) -> None:
        """Count so many bytes until :meth:`clear`; raises OverloadedError."""
        self._pending.add(size)
        self._reserved += size

    def clear(self) -> None:
        """Forget what has come, as nobody needs it any more."""
        self._parts = []
        self._block = None
        if self._reserved:
            self._pending.remove(self._reserved)
            self._reserved = 0

    def check_headers(self) -> None:
        """Check what the headers say of the body.

        Raises:
            TooLargeError: it is too large.
            UsageError: it is compressed in an unknown way.
        """
        length = self._headers.get(b"content-length")
        if length is not None and int(length) > self._limit:  # the HTTP parser has checked that it is a number
            raise too_large(self._limit)
        encoding = self._headers.get(b"content-encoding")
        if encoding not in _ENCODINGS:
            raise UsageError(f"content-encoding is {encoding!r:.100}; expected gzip, deflate or none")

    def receive_in_place(self, model: Served) -> None:
        """Have the bytes behind the JSON arrive in the model's shared memory, if they are many and their number known.

        To be called before the first part comes.
        """
        length = self._headers.get(b"content-length")
        head = self._headers.get(b"inference-header-content-length")
        if length is None or head is None or not _is_number(head) or self._headers.get(b"content-encoding") is not None:
            return
        size = int(length) - int(head)
        if LARGE_BYTES <= size <= self._limit:
            try:
                self._block = model.empty_block(size)
            except (AscendParallelError, OSError):  # it is not ready, or memory is short, which the client will be told
                return
            self._head_size = int(head)

    def add(self, part: bytes) -> None:
        """Take a part; raises TooLargeError and OverloadedError."""
        start = self._size
        self._size += len(part)
        if self._size > self._limit:
            raise too_large(self._limit)
        if self._size > UNCOUNTED_BYTES and self._size > self._reserved:  # it is chunked
            self.reserve(self._size - self._reserved)
        if self._block is None or start < self._head_size:
            self._parts.append(part)
            if self._block is None or self._size <= self._head_size:
                return
            part = part[self._head_size - start :]
            start = self._head_size
        at = start - self._head_size
        self._block[at : at + len(part)] = np.frombuffer(part, np.uint8)

    def finish(self) -> tuple[bytes, Any, int]:
        """Return the JSON, what holds the bytes behind it, and where in it they begin; raises UsageError."""
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        if self._block is not None:
            block, self._block = self._block, None  # from here on, the inputs that lie in it hold it
            return body[: self._head_size], block, 0
        if self._headers.get(b"content-encoding") not in (None, b"identity"):
            body = _decompress(body, self._limit)
            self.reserve(len(body))
        length = self._headers.get(b"inference-header-content-length")
        if length is None:
            return body, body, len(body)
        end = _read_length(length, len(body))
        return body[:end], body, end


class RepeatedBody:
    """The body of a request that came as a whole, with the headers of one before: it needs no checks and no room."""

    __slots__ = ("_data", "_text_bytes")

    def __init__(self, data: bytes, text_bytes: int) -> None:
        """Take the body, and how many bytes of JSON it begins with."""
        self._data = data
        self._text_bytes = text_bytes

    def finish(self) -> tuple[bytes, Any, int]:
        """Return what :meth:`Body.finish` does."""
        return self._data[: self._text_bytes], self._data, self._text_bytes

    def clear(self) -> None:
        """Do nothing."""


def too_large(limit: int) -> TooLargeError:
    """Return the error of a body that is too large."""
    return TooLargeError(f"the body is larger than {limit} bytes, the server's max_body_bytes")


def _is_number(value: bytes) -> bool:
    """Return whether a header is a whole number, and not one of thousands of digits, which Python refuses to read."""
    return value.isdigit() and len(value) < 20


def _read_length(value: bytes, size: int) -> int:
    if not _is_number(value) or int(value) > size:
        raise UsageError(f"inference-header-content-length is {value!r:.100}; expected at most the body's {size} bytes")
    return int(value)


def _decompress(body: bytes, limit: int) -> bytes:
    """Return the body of a request that came compressed (gzip or zlib)."""
    decompressor = zlib.decompressobj(wbits=47)  # 32 + 15: either header
    try:
        data = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise UsageError(f"the body cannot be decompressed: {error}") from None
    if len(data) > limit:
        raise too_large(limit)
    if not decompressor.eof or decompressor.unused_data:
        raise UsageError("the body is not one whole compressed stream")
    return data
