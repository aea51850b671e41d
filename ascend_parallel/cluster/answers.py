"""What hosts answer, acted on in the driver: outputs go to their places, errors to their calls."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from ascend_parallel.backends.call import Call
from ascend_parallel.backends.threads.placement import LocalPlacement
from ascend_parallel.errors import AscendParallelError, WorkerError
from ascend_parallel.worker.results import write_to_destinations

from .messages import Reply, decode_error, unpack_replies
from .pieces import Piece
from .slots import Shipment


class PieceError(NamedTuple):
    """Why a piece failed.

    Attributes:
        error: what its caller gets.
        is_untried: the host could compute nothing any more before it came to this piece.
        breaks_host: the host is to be started again.
    """

    error: AscendParallelError
    is_untried: bool
    breaks_host: bool


def read_answer(shipment: Shipment, answer: Any, received_ns: int) -> tuple[list[Reply], float]:
    """Return the replies of a shipment, with times of this process's clock, and the seconds that the host took.

    The clock of a host is another. Its times are placed in the middle between sending and receiving, as if both ways
    took the same time.

    Source: Cristian, Probabilistic clock synchronization, Distributed Computing 3 (1989).
    """
    replies, host_ns = unpack_replies(answer)
    arrived_ns = shipment.sent_ns + max(0, received_ns - shipment.sent_ns - host_ns) // 2
    placed = [
        reply._replace(started_ns=reply.started_ns + arrived_ns, finished_ns=reply.finished_ns + arrived_ns)
        for reply in replies
    ]
    return placed, host_ns / 1e9


def complete_pieces(
    shipment: Shipment, replies: Sequence[Reply], lock: threading.RLock
) -> tuple[list[Call], list[tuple[Piece, PieceError]]]:
    """Copy the outputs of pieces to their places; return the calls that are completed, and the pieces that failed."""
    completed, failed = [], []
    for piece, reply in zip(shipment.pieces, replies, strict=True):
        call = piece.call
        if reply.error is not None:
            failed.append((piece, _error_of(shipment, reply.error)))
        elif call.is_open:
            assert reply.outputs is not None
            piece.release()
            outputs = _place(piece, reply.outputs)
            with lock:
                if not call.is_open:
                    continue
                if call.is_recorded:
                    call.note_reply(piece, shipment.slot.host, reply.started_ns, reply.finished_ns)
                if call.complete(piece, outputs):
                    completed.append(call)
    return completed, failed


def _place(piece: Piece, outputs: dict[str, Any]) -> dict[str, Any] | None:
    """Copy outputs to where those of all pieces are joined; return those that have no place there."""
    placement = piece.call.placement
    assert isinstance(placement, LocalPlacement)
    destinations = placement.destinations_of(piece.index)
    return None if destinations and write_to_destinations(outputs, destinations) else outputs


def _error_of(shipment: Shipment, told: dict[str, Any]) -> PieceError:
    slot = shipment.slot
    device = slot.names.get(told["device"] or "", told["device"] or "")
    error = decode_error(told, slot.host, device)
    return PieceError(error, told["is_broken"] and type(error) is WorkerError, told["is_broken"])
