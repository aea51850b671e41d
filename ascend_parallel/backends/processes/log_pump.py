"""What workers print: read always, shown with the device in front, the last lines kept for error messages."""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
from collections import deque

#: Lines of a worker that an error message may quote.
TAIL_LINES = 12
_READ_BYTES = 1 << 16
#: A "line" longer than this is shown in pieces: some programs print progress without line ends.
_MAX_LINE_BYTES = 8192


class Output:
    """The stdout and stderr of one worker, one pipe.

    Attributes:
        tail: its last lines.
        ended: set when the pipe was read to its end.
    """

    def __init__(self, fd: int, label: str) -> None:
        self.fd = fd
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.ended = threading.Event()
        self._label = label
        self._rest = b""

    def read(self) -> bool:
        """Read what is there and show its lines; return False at the end."""
        data = os.read(self.fd, _READ_BYTES)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if self._rest and (not data or len(self._rest) > _MAX_LINE_BYTES):
            lines.append(self._rest)
            self._rest = b""
        self._show([line.decode(errors="replace").rstrip("\r") for line in lines])
        return bool(data)

    def _show(self, lines: list[str]) -> None:
        if not lines:
            return
        self.tail.extend(line for line in lines if line.strip())
        with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed, or None
            sys.stderr.write("".join(f"[{self._label}] {line}\n" for line in lines))
            sys.stderr.flush()


class LogPump:
    """A thread that reads the output of all workers.

    It is a thread of its own, so that a stderr that nobody reads can block it but not the supervisor.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._open = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ascend-parallel-logs", daemon=True)
        self._thread.start()

    def add(self, fd: int, label: str) -> Output:
        """Read a worker's pipe from now on, and close it at its end."""
        output = Output(fd, label)
        self._selector.register(fd, selectors.EVENT_READ, output)
        self._wake()
        return output

    def close(self, timeout_s: float) -> None:
        """Show what is left and stop; a grandchild that holds a pipe open delays this by the timeout at most."""
        self._closing = True
        self._wake()
        self._thread.join(timeout_s)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_writer, b"x")

    def _run(self) -> None:
        while not (self._closing and len(self._selector.get_map()) == 1):
            for key, _ in self._selector.select():
                if key.data is None:
                    os.read(self._wake_reader, _READ_BYTES)
                elif not key.data.read():
                    self._end(key.data)
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def _end(self, output: Output) -> None:
        self._selector.unregister(output.fd)
        os.close(output.fd)
        output.ended.set()
