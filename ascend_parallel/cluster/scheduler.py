"""Which pieces go to which host, and which of them together in one message. Nothing here calls Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from ascend_parallel.backends.call import Call

from .messages import HEAD_BYTES
from .pieces import Piece
from .slots import READY, Shipment, Slot

#: The time that a bundle of short tasks is to take on a host: an actor call takes half a millisecond of all processes,
#: which is a tenth of it.
BUNDLE_S = 0.005
#: At most so many tasks are in one bundle for each that the host computes at a time.
MAX_BUNDLE = 256
#: A host has a second bundle while it computes the first.
SHIPMENTS_AHEAD = 2
#: Weight of the latest bundle in the moving average of the time of a task.
SMOOTHING = 0.3


class Scheduler:
    """The queue of pieces; hosts pull. All methods need the backend's lock."""

    def __init__(self) -> None:
        self._queue: deque[Piece] = deque()
        self._suspects: deque[Piece] = deque()
        self._seconds: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._queue) + len(self._suspects)

    def add(self, pieces: Iterable[Piece]) -> None:
        """Queue the pieces of a call."""
        self._queue.extend(pieces)

    def put_back(self, pieces: Sequence[Piece]) -> None:
        """Queue pieces again whose host was lost, before all others."""
        self._suspects.extend(piece for piece in pieces if piece.failures)
        self._queue.extendleft(reversed([piece for piece in pieces if not piece.failures]))

    def drop_closed(self) -> None:
        """Forget the pieces of calls that are over."""
        self._queue = deque(piece for piece in self._queue if piece.call.is_open)
        self._suspects = deque(piece for piece in self._suspects if piece.call.is_open)

    def open_calls(self) -> list[Call]:
        """Return the calls of all queued pieces."""
        return [piece.call for piece in (*self._queue, *self._suspects)]

    def learn(self, shipment: Shipment, host_s: float) -> None:
        """Note how long a host took for a bundle."""
        model = shipment.pieces[0].call.plan.model_name
        rounds = -(-shipment.parts // shipment.slot.capacity)
        seconds = host_s / rounds
        before = self._seconds.get(model, seconds)
        self._seconds[model] = before + SMOOTHING * (seconds - before)

    def take(self, slots: Sequence[Slot]) -> list[Shipment]:
        """Assign queued pieces to the hosts that have room; the shipments are in flight from now on."""
        shipments: list[Shipment] = []
        ready = [slot for slot in slots if slot.state == READY]
        while True:
            shipment = self._take_suspect(ready) or self._take_bundle(ready)
            if shipment is None:
                return shipments
            shipment.slot.in_flight.append(shipment)
            shipments.append(shipment)

    def _take_suspect(self, ready: list[Slot]) -> Shipment | None:
        """Assign a piece whose host was lost before to a host that has nothing else to do.

        While there is none, the host that will be free first gets nothing more: it is taken out of ``ready``.
        """
        while self._suspects and not self._suspects[0].call.is_open:
            self._suspects.popleft()
        clean = [slot for slot in ready if not any(shipment.is_suspect for shipment in slot.in_flight)]
        if not self._suspects or not clean:
            return None
        slot = min(clean, key=lambda one: one.parts_in_flight / one.capacity)
        if slot.in_flight:
            ready.remove(slot)
            return None
        return Shipment(slot, [self._suspects.popleft()])

    def _take_bundle(self, ready: list[Slot]) -> Shipment | None:
        while self._queue and not self._queue[0].call.is_open:
            self._queue.popleft()
        room = [slot for slot in ready if _has_room(slot)]
        if not self._queue or not room:
            return None
        slot = min(room, key=lambda one: one.parts_in_flight / one.capacity)
        return Shipment(slot, self._take_pieces(slot, self._most_parts(slot, room)))

    def _most_parts(self, slot: Slot, room: Sequence[Slot]) -> int:
        """Return how many tasks the next bundle of a host may have."""
        seconds = self._seconds.get(self._queue[0].call.plan.model_name, BUNDLE_S)
        rounds = max(1, min(MAX_BUNDLE, int(BUNDLE_S / max(seconds, 1e-9))))
        if slot.parts_in_flight < slot.capacity and rounds == 1:
            return slot.capacity - slot.parts_in_flight
        capacity = sum(one.capacity for one in room)
        fair = -(-len(self._queue) * slot.capacity // capacity)  # pieces in a long queue are small
        return min(rounds * slot.capacity, max(fair, 1))

    def _take_pieces(self, slot: Slot, most: int) -> list[Piece]:
        """Take a piece, and more as long as they are small and the bundle does not get too long."""
        pieces = [self._queue.popleft()]
        parts, head_bytes = pieces[0].parts, pieces[0].bytes
        while self._queue and not pieces[0].following:
            piece = self._queue[0]
            parts, head_bytes = parts + piece.parts, head_bytes + piece.bytes
            if parts > most or head_bytes > HEAD_BYTES or piece.following:
                break
            self._queue.popleft()
            if piece.call.is_open:
                pieces.append(piece)
        return pieces


def _has_room(slot: Slot) -> bool:
    """Whether a host can take a bundle: a device of it is idle, or it has no second bundle yet."""
    if any(shipment.is_suspect for shipment in slot.in_flight):
        return False
    return slot.parts_in_flight < slot.capacity or len(slot.in_flight) < SHIPMENTS_AHEAD
