"""Pieces: the parts of a call that hosts compute, each in one message; how a call is cut into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ascend_parallel.backends.allocator import Allocator
from ascend_parallel.backends.call import Call, Task
from ascend_parallel.backends.threads.placement import LocalPlacement
from ascend_parallel.batching.batch import Array, Batch, cut
from ascend_parallel.batching.model import Model
from ascend_parallel.batching.plan import Plan

from .messages import Packed, moved, pack_arrays

#: How many tasks each host that is ready computes at a time: its devices times their instances.
Capacities = tuple[int, ...]


class PieceRows(tuple[int, int]):
    """The first row of a piece and the row after the last, and how many tasks these rows are.

    Attributes:
        parts: the tasks.
    """

    parts: int

    def __new__(cls, rows: tuple[int, int], parts: int) -> PieceRows:
        """Return the rows with their number of tasks."""
        made = super().__new__(cls, rows)
        made.parts = parts
        return made


class ClusterModel(Model):
    """A model of which hosts compute pieces: as many rows as their devices take at a time.

    A host cuts its piece into tasks. All tasks are those that one host with all the devices would have, so that the
    results are the same to the last bit.
    """

    def __init__(self, *args: Any, capacities: Callable[[], Capacities], **options: Any) -> None:
        super().__init__(*args, parts=1, **options)
        self._capacities = capacities
        self._planned_for: Capacities = ()

    def plan(self, inputs: Any) -> tuple[Plan, list[Array]]:
        """Plan a call for the hosts that are there now."""
        now = self._capacities()
        if now != self._planned_for:
            self.forget_plans()
            self._planned_for = now
        return super().plan(inputs)

    def _cut(self, batch: Batch) -> tuple[Batch, list[tuple[int, int]]]:
        capacities = self._planned_for
        tasks = cut(batch.rows, fixed_rows=batch.fixed_rows, chunk_size=self._chunk_size, parts=sum(capacities))
        pieces: list[tuple[int, int]] = []
        start = 0
        for count in share_out(len(tasks), capacities):
            pieces.append(PieceRows((tasks[start][0], tasks[start + count - 1][1]), count))
            start += count
        # Padding is up to the host, which cuts it off, too.
        return batch._replace(fixed_rows=None), pieces


def share_out(tasks: int, capacities: Sequence[int]) -> list[int]:
    """Share tasks out to hosts, in order; return the number of tasks of each piece.

    Where all of them can run at the same time, each host gets one piece, in proportion to its devices; else there are
    many pieces, of the size of the smallest host, and hosts pull them.
    """
    total = sum(capacities)
    if tasks > total:
        size = min(capacities)
        return [min(size, tasks - start) for start in range(0, tasks, size)]
    counts = []
    for capacity in capacities:
        counts.append(min(-(-tasks * capacity // total), tasks))
        tasks -= counts[-1]
        total -= capacity
    return [count for count in counts if count]


class ClusterPlacement(LocalPlacement):
    """Where a call's arrays lie in the driver.

    Outputs of several pieces are copied to one array. Those of one piece are what Ray returns: for a large one, a view
    of its shared memory. Such a view is read-only, so that all outputs are: how many hosts there were must not decide
    whether an array can be written to.

    Attributes:
        in_place: whether the inputs stay as they are until the call is completed.
    """

    owns_outputs = False

    def __init__(self, plan: Plan, arrays: Sequence[Array], allocator: Allocator, *, in_place: bool) -> None:
        super().__init__(plan, arrays, allocator)
        self.in_place = in_place

    def place_outputs(self) -> None:
        """Take memory for the outputs, if there are several pieces, and their shapes are known by now."""
        if len(self._plan.chunks) > 1:
            super().place_outputs()
        elif self._plan.outputs[0]:
            self.needs_shapes = False


class Piece(Task):
    """Some rows of a call, computed by one host.

    Attributes:
        parts: the tasks that the host makes of it, by which its load is counted.
        packed: its inputs, as they stand in the head of a message; None before they are packed.
        following: what goes beside the head: parts of arrays; or one object for the object store, or its reference.
        bytes: what its inputs take in the head.
    """

    __slots__ = ("bytes", "following", "packed", "parts")

    def __init__(self, call: Call, index: int) -> None:
        super().__init__(call, index)
        rows = call.plan.chunks[index]
        assert isinstance(rows, PieceRows)
        self.parts = rows.parts
        self.packed: list[Packed] | None = None
        self.following: list[Any] = []
        self.bytes = 0

    def pack(self, put: Callable[[Any], Any] | None) -> None:
        """Pack the inputs; ``put`` copies large ones now, as their owner may change them. Without, views are kept."""
        placement = self.call.placement
        assert isinstance(placement, LocalPlacement)
        arrays = placement.inputs_of(self.index)
        self.packed = pack_arrays(arrays, self.following)
        self.bytes = 0 if self.following else sum(array.nbytes for array in arrays)
        if self.following and not isinstance(self.following[0], bytes):
            buffers = tuple(self.following)
            self.following = [buffers if put is None else put(buffers)]

    def head(self) -> tuple[Any, ...]:
        """Return what a message's head says of this piece, but for the arrays."""
        plan = self.call.plan
        names = None if plan.as_list else tuple(region.name for region in plan.inputs)
        return plan.model_name, names, self.parts, self.call.timeout_s

    def release(self) -> None:
        """Let go of the inputs."""
        self.packed, self.following = None, []


def bundle_of(pieces: Sequence[Piece]) -> tuple[list[Any], list[Any]]:
    """Return the heads of a bundle, and the objects that follow it, whose places count through the whole bundle."""
    heads: list[Any] = []
    following: list[Any] = []
    for piece in pieces:
        heads.append((*piece.head(), moved(piece.packed or (), len(following))))
        following += piece.following
    return heads, following


def output_bytes_of(pieces: Sequence[Piece]) -> int:
    """Return how many bytes the outputs of a bundle will have; 0 where their shapes are not known yet."""
    total = 0
    for piece in pieces:
        plan = piece.call.plan
        total += plan.outputs[1] * piece.rows // plan.batch.rows if plan.is_sliced else plan.outputs[1]
    return total
