"""The few parts of protobuf's wire format that are read and written here.

What is large in a message, or changes with each one (the tensors and the id), is taken from it without protobuf: the
tensors are not copied, and the rest of the message comes again and again, so that what was read of it can be kept.

Source: protobuf's documentation, "Encoding".
"""

from __future__ import annotations

from typing import NamedTuple

from ascend_parallel.errors import UsageError

#: Wire types. Groups, the two that are missing, have never been part of proto3.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


class RequestParts(NamedTuple):
    """A ModelInferRequest taken apart.

    Attributes:
        head: all but the id and the raw contents, as a message.
        id: the client's name of the request; "" for none.
        raw: (start, size) of the raw contents in the message, in order.
    """

    head: bytes
    id: str
    raw: list[tuple[int, int]]


def split_request(data: bytes, id_field: int, raw_field: int) -> RequestParts:
    """Take a message apart; raises UsageError where it is no message.

    Args:
        data: the message.
        id_field: the number of the field that holds the id.
        raw_field: the number of the field that holds the raw contents.
    """
    id_tag, raw_tag = id_field << 3 | _BYTES, raw_field << 3 | _BYTES
    head: list[bytes] = []
    identity = b""
    raw: list[tuple[int, int]] = []
    at, end, kept_from = 0, len(data), 0
    while at < end:
        tag = data[at]
        if tag not in (id_tag, raw_tag):
            at = _skip(data, at)
            continue
        head.append(data[kept_from:at])
        size, start = _read_varint(data, at + 1)
        at = kept_from = start + size
        if at > end:
            raise _broken()
        if tag == raw_tag:
            raw.append((start, size))
        else:
            identity = data[start:at]
    if kept_from < end:
        head.append(data[kept_from:])
    return RequestParts(head[0] if len(head) == 1 else b"".join(head), _decode(identity), raw)


def _skip(data: bytes, at: int) -> int:
    """Return where a field ends."""
    is_short = data[at] < 0x80
    tag, at = _read_varint(data, at)
    if tag < 0x80 and not is_short:
        raise _broken()  # a number with more bytes than it needs, which no encoder writes
    kind = tag & 7
    if kind == _BYTES:
        size, at = _read_varint(data, at)
        at += size
    elif kind == _VARINT:
        at = _read_varint(data, at)[1]
    elif kind in _FIXED_BYTES:
        at += _FIXED_BYTES[kind]
    else:
        raise _broken()
    if tag >> 3 == 0 or at > len(data):
        raise _broken()
    return at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    if at < len(data) and data[at] < 0x80:
        return data[at], at + 1
    value = shift = 0
    for byte in data[at : at + _MAX_VARINT_BYTES]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _broken()


def _decode(identity: bytes) -> str:
    try:
        return identity.decode()
    except UnicodeDecodeError:
        raise UsageError("the id of the request is no UTF-8 text") from None


def _broken() -> UsageError:
    return UsageError("the message is no ModelInferRequest")


def start_field(number: int, size_bytes: int) -> bytes:
    """Return what precedes the bytes of a field."""
    return _varint(number << 3 | _BYTES) + _varint(size_bytes)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
