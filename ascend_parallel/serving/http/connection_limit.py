"""How many connections may be open: a server without descriptors can neither compute nor replace a worker."""

from __future__ import annotations

import resource
import sys
from asyncio import AbstractEventLoop
from typing import Any

from ascend_parallel.errors import OverloadedError
from ascend_parallel.serving.log import logger
from ascend_parallel.serving.log_limit import LogLimit

#: Descriptors that connections leave to workers, memory and files: a quarter of ``ulimit -n``, but no more than this.
_MAX_KEPT = 256
_KEPT_PART = 4
#: How long a refused client has to read why, and how many have it at a time; others are closed at once. Closing resets
#: a connection on which a request arrives, and its client may then lose the answer.
_LINGER_S = 1.0
_MAX_LINGERING = 16
#: How often a refusal is logged.
_LOG_S = 60.0


class ConnectionLimit:
    """The connections of one server."""

    def __init__(self, loop: AbstractEventLoop, max_connections: int) -> None:
        """Take how many there may be."""
        self._loop = loop
        self._max_connections = max_connections
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_descriptors = sys.maxsize if soft == resource.RLIM_INFINITY else soft
        self._last_descriptor = self._max_descriptors - min(_MAX_KEPT, self._max_descriptors // _KEPT_PART)
        self._lingering: set[Any] = set()
        self._log = LogLimit(loop, 1, _LOG_S, self._tell_more)

    def find_refusal(self, open_connections: int, descriptor: int) -> OverloadedError | None:
        """Return why a new connection is refused; None if it is not.

        Args:
            open_connections: how many there are with it.
            descriptor: its own. It is the lowest that was free, so it tells how many the whole process uses.
        """
        if open_connections > self._max_connections:
            text = f"the server has {self._max_connections} connections already, its max_connections"
        elif descriptor > self._last_descriptor:
            text = f"the server has few descriptors left, of {self._max_descriptors} (ulimit -n)"
        else:
            return None
        if self._log.allows(""):
            logger.warning("new connections are refused: %s; %d are open", text, open_connections - 1)
        return OverloadedError(f"{text}; try again later")

    def close_refused(self, transport: Any) -> None:
        """Close a connection whose client was told why; what it sends is to be ignored."""
        has_tls = not transport.can_write_eof()
        if len(self._lingering) >= _MAX_LINGERING:
            (transport.abort if has_tls else transport.close)()  # closing with TLS waits for the client
            return
        (transport.close if has_tls else transport.write_eof)()
        self._lingering.add(transport)
        self._loop.call_later(_LINGER_S, self._end, transport)

    def _end(self, transport: Any) -> None:
        self._lingering.discard(transport)
        transport.abort()

    def _tell_more(self, _: str, count: int) -> None:
        text = f"{count} more connections were refused within {_LOG_S:.0f} s"
        logger.warning("%s", text, extra={"fields": {"count": count}})
