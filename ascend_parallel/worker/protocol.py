"""The wire format, both sides: what goes over a worker's pipe.

The pipe is a ``multiprocessing.Pipe``. A frame is four bytes of length (network order), which is the framing of
``multiprocessing.connection.Connection``, and a body. The body is a pickle, protocol 4, of plain builtins. The two
messages of every task, PREDICT and REPLY, have a packed form besides (see :data:`_PREDICT` and :data:`_REPLY`): it
saves a tenth of what a task costs where many workers keep each other's caches cold. The first byte tells the forms
apart. Arrays never travel here: they lie in shared memory, see :mod:`memory`. Exceptions do not travel either: an error
is sent as text. Pickles of either do not load across numpy and Python versions.

Messages are tuples. The master sends::

    the build request, a dict, as its first message; see building.py
    (PREDICT, task, chunk, retired)
    (EXIT,)

and the worker answers::

    (BUILD_FINISH, description)          description of each model; see building.py
    (REPLY, task, outputs, started_ns, finished_ns)
    (ERROR, task, type_name, text, traceback)      task is None while building

``task`` is the number of the task, so that a reply can never be taken for another's. Times are those of
``time.perf_counter_ns``, which on Linux is one clock for all processes.

``chunk`` says what is computed (see :func:`encode_chunk`): the inputs, the destinations of the outputs, the first row
and the number of rows. The same chunks come again with the same blocks of memory, so the worker keeps what it made of
them. ``inputs`` in it is the encoding (see :func:`encode_part`) of (model, names, descriptors); names are None where
the caller gave a list. ``destinations`` is the encoding of a list of (output name, descriptor); the list is empty while
the shapes of the outputs are not known. Both name the memory of the whole call.

``outputs`` of REPLY is None where everything was written to its destination. Otherwise it is a list of (name,
descriptor) in a segment of the worker's own, whose file descriptor came through the side channel before. ``retired``
are numbers of segments that the worker can unmap.
"""

from __future__ import annotations

import os
import pickle
import struct
from io import BytesIO
from typing import Any, List, Optional, Sequence, Tuple

ERROR = 0
PREDICT = 1
REPLY = 2
BUILD_FINISH = 3
EXIT = 4

#: (segment, offset in bytes, dtype as numpy's ``dtype.str``, shape, batch axis or None): see memory.SharedArray.
ArrayDescriptor = Tuple[int, int, str, Tuple[int, ...], Optional[int]]

_LENGTH = struct.Struct("!i")
#: Length, PREDICT, task; the chunk follows. Nothing is retired.
_PREDICT = struct.Struct("!iBq")
#: Start, rows, bytes of ``inputs``; ``inputs`` and ``destinations`` follow.
_CHUNK = struct.Struct("!qqi")
#: Length, REPLY, task, started_ns, finished_ns. All outputs were written to their destinations.
_REPLY = struct.Struct("!iBqqq")
_REPLY_BYTES = _REPLY.size - _LENGTH.size
_CHUNK_AT = _PREDICT.size - _LENGTH.size
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


def encode_chunk(inputs: bytes, destinations: bytes, start: int, rows: int) -> bytes:
    """Return the encoding of what one task computes; :func:`decode_chunk` reads it."""
    return _CHUNK.pack(start, rows, len(inputs)) + inputs + destinations


def decode_chunk(chunk: bytes) -> Tuple[bytes, bytes, int, int]:
    """Return (inputs, destinations, start, rows)."""
    start, rows, input_bytes = _CHUNK.unpack_from(chunk)
    at = _CHUNK.size + input_bytes
    return chunk[_CHUNK.size : at], chunk[at:], start, rows


def encode_predict(task: int, chunk: bytes, retired: Sequence[int]) -> bytes:
    """Return the frame of a PREDICT."""
    if retired:
        return encode((PREDICT, task, chunk, retired))
    return _PREDICT.pack(_CHUNK_AT + len(chunk), PREDICT, task) + chunk


def encode_reply(task: int, outputs: Any, started_ns: int, finished_ns: int) -> bytes:
    """Return the frame of a REPLY."""
    if outputs is not None:
        return encode((REPLY, task, outputs, started_ns, finished_ns))
    return _REPLY.pack(_REPLY_BYTES, REPLY, task, started_ns, finished_ns)


def _frame(body: bytes) -> bytes:
    return _LENGTH.pack(len(body)) + body


def decode(data: bytes, start: int = 0, end: Optional[int] = None) -> Any:
    """Return the message that lies in data[start:end], the body of a frame.

    The length of the frame must stand before ``start`` where the message is packed. Raises UnpicklingError for anything
    but builtins.
    """
    kind = data[start]
    if kind == REPLY and (len(data) if end is None else end) - start == _REPLY_BYTES:
        _, _, task, started_ns, finished_ns = _REPLY.unpack_from(data, start - _LENGTH.size)
        return REPLY, task, None, started_ns, finished_ns
    if kind == PREDICT:
        _, _, task = _PREDICT.unpack_from(data, start - _LENGTH.size)
        return PREDICT, task, data[start + _CHUNK_AT : end], ()
    return _PlainUnpickler(BytesIO(data[start:end])).load()


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
        self._ready: List[Any] = []

    def send(self, message: Any) -> None:
        """Send a message; raises OSError (EPIPE, ECONNRESET) where the other end is closed."""
        self.send_frame(encode(message))

    def send_frame(self, frame: bytes) -> None:
        """Send a message that is encoded already; raises OSError likewise."""
        if not self.unsent:
            try:
                written = os.write(self.fd, frame)
            except BlockingIOError:
                written = 0
            if written == len(frame):
                return
            frame = frame[written:]
        self.unsent += frame
        self.flush()

    def flush(self) -> None:
        """Write what an earlier send left over, as far as the pipe takes it."""
        try:
            while self.unsent:
                del self.unsent[: os.write(self.fd, self.unsent)]
        except BlockingIOError:
            pass

    def receive(self) -> Any:
        """Wait for the next message; raises EOFError where the other end is closed."""
        while not self._ready:
            self._read()
        return self._ready.pop(0)

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
        messages = self._ready
        self._ready = []
        return messages

    def _read(self) -> int:
        """Read what is there, as far as one read goes, and take the whole messages out of it; return its size."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError("the other end of the pipe is closed")
        size = total = len(data)
        if self._rest:
            data = self._rest + data
            total = len(data)
        start = _LENGTH.size
        while start <= total:
            end = start + _LENGTH.unpack_from(data, start - _LENGTH.size)[0]
            if total < end:
                break
            self._ready.append(decode(data, start, end))
            start = end + _LENGTH.size
        self._rest = data[start - _LENGTH.size :]
        return size
