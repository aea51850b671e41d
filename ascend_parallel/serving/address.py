"""The address of a server."""

from __future__ import annotations

import socket

from ascend_parallel.errors import UsageError


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Return a socket that listens; raises UsageError, which names the option for the port, where it cannot."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]  # create_server names the address again
        raise UsageError(
            f"cannot listen on {host}:{port} ({reason}); choose another port with {option}, or 0 for any free one"
        ) from None
    listener.setblocking(False)
    return listener
