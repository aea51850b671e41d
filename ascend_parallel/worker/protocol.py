"""The wire format, both sides: what goes over a worker's pipe.

The pipe is a ``multiprocessing.Pipe``. A frame is four bytes of length (network order), the framing of
``multiprocessing.connection.Connection``, and a body. That is a pickle, protocol 4, of plain builtins; but for the two
messages of every task, PREDICT and REPLY as they nearly always are, whose numbers are packed (see :data:`_PREDICT` and
:data:`_REPLY`): with many workers, whose caches are cold, that saves a tenth of what a task costs. The first byte tells
them apart. Arrays never travel here (they lie in shared memory, see :mod:`memory`) and neither do exceptions (an error
is sent as text): pickles of either do not load across numpy and Python versions.

Messages are tuples. The master sends::

    the build request, a dict, as its first message; see loop.build
    (PREDICT, task, inputs, destinations, start, rows, retired)
    (EXIT,)

and the worker answers::

    (BUILD_FINISH, description)          description of each model; see loop.build
    (REPLY, task, outputs, started_ns, finished_ns)
    (ERROR, task, type_name, text, traceback)      task is None while building

``task`` is the number of the task, so that an answer can never be taken for another's. Times are those of
``time.perf_counter_ns``, which Linux counts alike in all processes.

``inputs`` is the encoding (see :func:`encode_part`) of (model, names, descriptors); names are None where the caller
gave a list. ``destinations`` is the encoding of a list of (output name, descriptor): where to write each output. The
list is empty while the shapes of the outputs are not known. Both name the memory of the whole call; the task's own rows
are ``rows`` rows from ``start`` on. They are encoded apart because all tasks of a call share them, and because the same
blocks of memory are used again and again: either side keeps what it made of them.

``outputs`` of REPLY is None where everything was written to its destination. Otherwise it is a list of (name,
descriptor) in a segment of the worker's own, whose descriptor came through the side channel first. ``retired`` are
numbers of segments that the worker can unmap.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections import deque
from io import BytesIO
from typing import Any, Deque, List, Optional, Sequence, Tuple

ERROR = 0
PREDICT = 1
REPLY = 2
BUILD_FINISH = 3
EXIT = 4

#: (segment, offset in bytes, dtype as numpy's ``dtype.str``, shape, batch axis or None): see memory.SharedArray.
ArrayDescriptor = Tuple[int, int, str, Tuple[int, ...], Optional[int]]

_LENGTH = struct.Struct("!i")
#: PREDICT, task, start, rows, bytes of ``inputs``; these and ``destinations`` follow. Nothing is retired.
_PREDICT = struct.Struct("!Bqqqi")
#: REPLY, task, started_ns, finished_ns. All outputs lie in their destinations.
_REPLY = struct.Struct("!Bqqq")
#: One read takes whole messages in nearly all cases: they are a few hundred bytes.
_READ_BYTES = 1 << 16
_PICKLE_PROTOCOL = 4  # the newest that Python 3.7 reads


class _PlainUnpickler(pickle.Unpickler):
    """Loads builtins only: anything else in a message is a mistake, or an attack."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError("a message holds a %s.%s; only plain builtins travel" % (module, name))


def encode(message: Any) -> bytes:
    """Return the frame of a message of plain builtins."""
    return _frame(pickle.dumps(message, _PICKLE_PROTOCOL))


def encode_predict(
    task: int, inputs: bytes, destinations: bytes, start: int, rows: int, retired: Sequence[int]
) -> bytes:
    """Return the frame of a PREDICT."""
    if retired:
        return encode((PREDICT, task, inputs, destinations, start, rows, retired))
    return _frame(_PREDICT.pack(PREDICT, task, start, rows, len(inputs)) + inputs + destinations)


def encode_reply(task: int, outputs: Any, started_ns: int, finished_ns: int) -> bytes:
    """Return the frame of a REPLY."""
    if outputs is not None:
        return encode((REPLY, task, outputs, started_ns, finished_ns))
    return _frame(_REPLY.pack(REPLY, task, started_ns, finished_ns))


def _frame(body: bytes) -> bytes:
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Any:
    """Return the message in the body of a frame; raises UnpicklingError for anything but builtins."""
    if body[0] == PREDICT:
        _, task, start, rows, input_bytes = _PREDICT.unpack_from(body)
        at = _PREDICT.size + input_bytes
        return PREDICT, task, body[_PREDICT.size : at], body[at:], start, rows, ()
    if body[0] == REPLY:
        _, task, started_ns, finished_ns = _REPLY.unpack(body)
        return REPLY, task, None, started_ns, finished_ns
    return _PlainUnpickler(BytesIO(body)).load()


def encode_part(part: Any) -> bytes:
    """Return the encoding of a part of a message; :func:`decode` reads it."""
    return pickle.dumps(part, _PICKLE_PROTOCOL)


class Channel:
    """One end of a worker's pipe.

    On a blocking descriptor (the worker's) :meth:`send` and :meth:`receive` wait. On a non-blocking one
    (the master's) nothing ever waits: what a full pipe does not take stays in :attr:`unsent` until
    :meth:`flush`, and :meth:`receive_ready` returns the messages that are there. So a stopped or half-dead
    worker can never block the master, neither in a send nor in the middle of a message.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.unsent = bytearray()
        self._rest = b""
        self._ready: Deque[Any] = deque()

    def send(self, message: Any) -> None:
        """Send a message; raises OSError (EPIPE, ECONNRESET) where the other end is closed."""
        self.send_frame(encode(message))

    def send_frame(self, frame: bytes) -> None:
        """Send a message that is encoded already; raises OSError likewise."""
        if self.unsent:
            self.unsent += frame
            self.flush()
            return
        written = self._write(frame)
        if written < len(frame):
            self.unsent += frame[written:]
            self.flush()

    def flush(self) -> None:
        """Write what an earlier send left over, as far as the pipe takes it."""
        while self.unsent:
            written = self._write(self.unsent)
            if written == 0:
                return
            del self.unsent[:written]

    def receive(self) -> Any:
        """Wait for the next message; raises EOFError where the other end is closed."""
        while not self._ready:
            self._read()
        return self._ready.popleft()

    def receive_ready(self) -> List[Any]:
        """Return the messages that have arrived in full; raises EOFError where the other end is closed."""
        try:
            while self._read() == _READ_BYTES:
                pass
        except BlockingIOError:
            pass
        except EOFError:
            if not self._ready:
                raise
        messages = list(self._ready)
        self._ready.clear()
        return messages

    def _write(self, data: Any) -> int:
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0

    def _read(self) -> int:
        """Read what is there, as far as one read goes, and take the whole messages out of it; return its size."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError("the other end of the pipe is closed")
        size = len(data)
        if self._rest:
            data = self._rest + data
        start = 0
        while len(data) - start >= _LENGTH.size:
            end = start + _LENGTH.size + _LENGTH.unpack_from(data, start)[0]
            if len(data) < end:
                break
            self._ready.append(decode(data[start + _LENGTH.size : end]))
            start = end
        self._rest = data[start:]
        return size
