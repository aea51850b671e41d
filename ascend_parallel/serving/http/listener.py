"""How a listening socket is closed without losing a connection."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
#: Of a listener, tcpi_unacked of struct tcp_info (linux/tcp.h) is how many connections wait to be accepted.
_UNACKED_OFFSET = 24
#: A filter of packets (linux/filter.h): code, jump if true, jump if false, value. SYN without ACK opens a connection.
_REFUSE_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the TCP header that has the flags
    (0x54, 0, 0, 0x12),  # and SYN | ACK
    (0x15, 1, 0, 0x02),  # jump over the next if it is SYN
    (0x06, 0, 0, 0xFFFFFFFF),  # take the packet
    (0x06, 0, 0, 0),  # drop it
)


def drop_new_connections(listener: socket.socket) -> None:
    """Have the kernel drop packets that open a connection; those that are open already can be accepted.

    Closing a listener resets the connections that wait to be accepted, though their clients may have sent requests. A
    client whose packet is dropped sends it again after a second, and is refused once the listener is closed.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _REFUSE_SYN))
    described = struct.pack("HP", len(_REFUSE_SYN), ctypes.addressof(program))
    with contextlib.suppress(OSError):  # a sandbox without filters: then few may be reset
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def count_waiting(listener: socket.socket) -> int:
    """Return how many connections are open and wait to be accepted."""
    count: int = struct.unpack_from(
        "I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), _UNACKED_OFFSET
    )[0]
    return count
