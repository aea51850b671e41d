"""The messages between the driver and a host's actor, for both sides.

A message carries a bundle: one piece or several, each with its inputs. Its head is one ``bytes`` object, which Ray
sends without looking into it: a dict of small arrays takes Ray a third longer. Further objects follow the head:

- parts of arrays of medium size, each small enough that Ray sends it with the call itself. Through the object store,
  256 KiB take 6 ms in place of 1.7 ms, and only from 2 MiB on it is quicker (``benchmarks/README.md``);
- large arrays, which Ray writes to shared memory once, and the host reads there. Those of a piece are one object, in
  buffers that Ray copies without starting threads; see :data:`BUFFER_BYTES`.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ascend_parallel import errors
from ascend_parallel.batching.batch import Array
from ascend_parallel.devices import usable_cores

#: Inputs and outputs of a piece that are no larger than this lie in the head; those of medium size are cut into parts
#: of this size. Ray sends an object of up to 100 KB with the call itself (its ``max_direct_call_object_size``).
HEAD_BYTES = 90_000
#: Up to this size, arrays go in parts; larger ones go through the object store.
MEDIUM_BYTES = 1 << 20
#: Ray copies a buffer of more than this to the object store by six threads, which it starts for each: so a large array
#: is sent as many buffers of this size, which one thread copies.
BUFFER_BYTES = 1 << 20
#: Where each of these threads can have a core, a larger array than this is left to them. To start them takes as long as
#: to copy 2.4 MiB (``benchmarks/README.md``).
MOST_CUT_BYTES, COPYING_THREADS = 4 << 20, 6
#: The stated version of pickle: the Pythons of the driver and of the hosts may differ.
_PROTOCOL = 5
#: Several outputs are cut each on its own, which may take so many parts more.
_SPARE_PARTS = 4


class Request(NamedTuple):
    """One piece, as a host gets it.

    Attributes:
        model: the model's name in the runner.
        names: the inputs' names; None if the caller gave a list.
        parts: how many tasks the host makes of it, where the model does not settle that.
        timeout_s: how long a task may take; None: as the runner says.
        inputs: the arrays, in the model's order.
    """

    model: str
    names: tuple[str, ...] | None
    parts: int
    timeout_s: float | None
    inputs: list[Array]


class Reply(NamedTuple):
    """What became of one piece.

    Attributes:
        outputs: name -> array; None if it failed.
        error: why it failed; None if it did not.
        started_ns: when the host began it, since the message came.
        finished_ns: when it was done, likewise.
    """

    outputs: dict[str, Array] | None
    error: dict[str, Any] | None
    started_ns: int
    finished_ns: int


#: An array in a head: (dtype, shape, its bytes, or (its first place among the objects that follow, their number)).
Packed = tuple[str, tuple[int, ...], "bytes | tuple[int, int]"]


def pack_arrays(arrays: Sequence[Array], following: list[Any], medium_bytes: int = MEDIUM_BYTES) -> list[Packed]:
    """Return arrays for a head; what is too large for it is appended to ``following``: bytes, or buffers to be read."""
    size_bytes = sum(array.nbytes for array in arrays)
    cut = _cut_to_bytes if size_bytes <= medium_bytes else _cut_to_buffers
    packed: list[Packed] = []
    for array in arrays:
        data: bytes | tuple[int, int]
        if size_bytes <= HEAD_BYTES:
            data = array.tobytes()
        else:
            parts = cut(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
            data = (len(following), len(parts))
            following += parts
        packed.append((array.dtype.str, array.shape, data))
    return packed


def _cut_to_bytes(flat: Array) -> list[bytes]:
    return [flat[start : start + HEAD_BYTES].tobytes() for start in range(0, len(flat), HEAD_BYTES)] or [b""]


def _cut_to_buffers(flat: Array) -> list[Array]:
    """Return views; in one object, Ray lays them one behind the other."""
    if len(flat) <= BUFFER_BYTES or (len(flat) > MOST_CUT_BYTES and _has_many_cores()):
        return [flat]
    return [flat[start : start + BUFFER_BYTES] for start in range(0, len(flat), BUFFER_BYTES)]


@functools.cache
def _has_many_cores() -> bool:
    return usable_cores() >= COPYING_THREADS


def unpack_arrays(packed: Sequence[Packed], following: Sequence[Any]) -> list[Array]:
    """Return the arrays of a head; they are read-only."""
    arrays = []
    for dtype, shape, data in packed:
        if isinstance(data, tuple):
            first, count = data
            data = _join(following[first : first + count])
        arrays.append(np.frombuffer(data, dtype).reshape(shape))
    return arrays


def _join(parts: Sequence[Any]) -> Any:
    """Return the bytes of parts; those of buffers that lie one behind the other are not copied."""
    if isinstance(parts[0], bytes):
        return b"".join(parts)
    if len(parts) == 1:
        return parts[0]
    address = start = _address_of(parts[0])
    for part in parts:
        if _address_of(part) != address:
            return np.concatenate(parts)
        address += len(part)
    return np.asarray(_Adjacent(parts, start, address - start))


def _address_of(buffer: Array) -> int:
    address: int = buffer.__array_interface__["data"][0]
    return address


class _Adjacent:
    """Buffers that lie one behind the other, as numpy reads them: as one array, which keeps all of them."""

    def __init__(self, buffers: Sequence[Array], address: int, size_bytes: int) -> None:
        self._buffers = buffers
        self.__array_interface__ = {"data": (address, True), "shape": (size_bytes,), "typestr": "|u1", "version": 3}


def moved(packed: Sequence[Packed], places: int) -> list[Packed]:
    """Return packed arrays whose objects follow so many others."""
    return [(d, s, (data[0] + places, data[1]) if isinstance(data, tuple) else data) for d, s, data in packed]


def pack_requests(heads: Sequence[Any], objects: int) -> bytes:
    """Return the head of a bundle.

    Args:
        heads: of each piece (model, names, parts, timeout_s, packed arrays).
        objects: how many objects the answer is to have.
    """
    return pickle.dumps((objects, list(heads)), _PROTOCOL)


def unpack_requests(head: bytes, following: Sequence[Any]) -> tuple[list[Request], int]:
    """Return the pieces of a bundle, and how many objects the answer is to have."""
    objects, heads = pickle.loads(head)
    following = _flat(following)
    requests = [
        Request(model, names, parts, timeout_s, unpack_arrays(packed, following))
        for model, names, parts, timeout_s, packed in heads
    ]
    return requests, objects


def objects_of(output_bytes: int) -> int:
    """Return how many objects an answer with outputs of this size has: Ray must be told when the call is sent."""
    if not HEAD_BYTES < output_bytes <= MEDIUM_BYTES:
        return 1
    return 2 + output_bytes // HEAD_BYTES + _SPARE_PARTS


def pack_replies(replies: Sequence[Reply], host_ns: int, objects: int) -> Any:
    """Return what an actor's method returns.

    Args:
        replies: one a piece, in the order of the request.
        host_ns: from the arrival of the message to now.
        objects: how many objects Ray expects: the head, and what follows it. Where more follow, the last object is a
            tuple of them; where fewer do, it is filled up.
    """
    following: list[Any] = []
    entries = []
    medium_bytes = MEDIUM_BYTES if objects > 1 else 0
    for reply in replies:
        outputs = reply.outputs
        packed = None
        if outputs is not None:
            packed = (tuple(outputs), pack_arrays(list(outputs.values()), following, medium_bytes))
        entries.append((packed, reply.error, reply.started_ns, reply.finished_ns))
    answer = [pickle.dumps((host_ns, entries), _PROTOCOL), *following]
    if len(answer) > objects:
        answer[objects - 1 :] = [tuple(answer[objects - 1 :])]
    answer += [b""] * (objects - len(answer))
    return answer[0] if objects == 1 else tuple(answer)


def unpack_replies(answer: Sequence[Any]) -> tuple[list[Reply], int]:
    """Return the replies, and the nanoseconds that the host took for all of them."""
    objects = _flat(answer)
    host_ns, entries = pickle.loads(objects[0])
    following = objects[1:]
    replies = []
    for packed, error, started_ns, finished_ns in entries:
        outputs = None if packed is None else dict(zip(packed[0], unpack_arrays(packed[1], following), strict=True))
        replies.append(Reply(outputs, error, started_ns, finished_ns))
    return replies, host_ns


def _flat(objects: Sequence[Any]) -> Sequence[Any]:
    """Return objects of which the last may be a tuple of several."""
    return [*objects[:-1], *objects[-1]] if objects and isinstance(objects[-1], tuple) else objects


# ---- errors


def encode_error(error: BaseException) -> dict[str, Any]:
    """Return an error as plain data: an exception's class may not be importable on the other side."""
    fields = {name: getattr(error, name, None) for name in ("device", "exit_code", "remote_traceback")}
    return {"type": type(error).__name__, "text": str(error), **fields}


def decode_error(data: Mapping[str, Any], host: str, device: str) -> errors.AscendParallelError:
    """Return the error of a host: of the same class, if it is one of this package, else an EngineError.

    Args:
        data: see :func:`encode_error`.
        host: the host's name, which the message begins with.
        device: the device's name in the cluster; "" if the error belongs to none.
    """
    text = f"host {host}: {data['text']}"
    kind = getattr(errors, data["type"], None)
    if not isinstance(kind, type) or not issubclass(kind, errors.AscendParallelError):
        text = f"host {host}: {data['type']}: {data['text']}"
        return errors.EngineError(text, device=device, remote_traceback=data["remote_traceback"] or "")
    if issubclass(kind, errors.EngineError):
        return kind(text, device=device, remote_traceback=data["remote_traceback"] or "")
    if issubclass(kind, errors.WorkerDied):
        return kind(text, device=device, exit_code=data["exit_code"])
    return kind(text, device=device) if issubclass(kind, errors.WorkerError) else kind(text)
