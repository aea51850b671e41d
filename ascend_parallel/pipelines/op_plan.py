"""How the call of an op lies in memory: the packed requests, large arrays where they are, and room for the reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ascend_parallel.backends.allocator import PAGE_BYTES
from ascend_parallel.batching.batch import Array, Batch
from ascend_parallel.batching.plan import Plan, Region
from ascend_parallel.worker.engines.op import REPLY

#: The name of the input that holds the packed requests.
REQUESTS = "requests"


class OpPlan(Plan):
    """A call of one task that is not sliced; its reply goes to a block that is large enough for those seen before."""

    def __init__(self, arrays: Sequence[Array], requests: int, reply_bytes: int) -> None:
        """Take the inputs (of which only shapes are kept), how many requests they are, and the room for the reply."""
        names = [REQUESTS, *[f"array{number}" for number in range(1, len(arrays))]]
        batch = Batch(requests, None, (None,) * len(arrays))
        super().__init__(
            "",
            names,
            arrays,
            [array.dtype for array in arrays],
            batch,
            [(0, requests)],
            {},
            as_list=False,
            tell_names=True,
        )
        self.outputs = ([Region(REPLY, "|u1", (reply_bytes,), None, 0, 0)], reply_bytes)

    def learn(self, rows: int, seen: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """Do nothing: a reply that had no room says nothing of the next one; see :class:`.op_batcher.OpBatcher`."""


def block_bytes(size_bytes: int) -> int:
    """Return the size of the block that the allocator has for so many bytes: few sizes make few plans."""
    return max(PAGE_BYTES, 1 << (size_bytes - 1).bit_length())


def stand_in(size_bytes: int) -> Array:
    """Return a uint8 array of this size that takes no memory."""
    return np.broadcast_to(np.uint8(0), (size_bytes,))
