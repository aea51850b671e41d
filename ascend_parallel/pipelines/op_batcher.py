"""The batcher of an op with Python: whole requests go to a worker together, and each has its own outcome."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from collections.abc import Sequence
from typing import Any

from ascend_parallel.backends.backend import Backend
from ascend_parallel.backends.call import Placement
from ascend_parallel.backends.processes.placement import find_allocation
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.plan import Plan
from ascend_parallel.errors import EngineError, RefusedError, ShapeError
from ascend_parallel.serving.batcher import BatchCall, Batcher, Limits
from ascend_parallel.serving.model_stats import ModelStats
from ascend_parallel.serving.observed_batcher import Observed
from ascend_parallel.serving.request import InferRequest
from ascend_parallel.worker.engines.op import REPLY
from ascend_parallel.worker.ops import failures
from ascend_parallel.worker.ops.packing import NotPackable, Packed, unpack

from .op_plan import OpPlan, block_bytes, stand_in
from .op_queue import OpQueue

#: An array of so many bytes that lies in shared memory already is not copied for the next op.
_OUTSIDE_BYTES = 1 << 18
#: Room for a reply at first, and the most that is kept ready; a larger one comes in memory of the worker's own.
_FIRST_REPLY_BYTES = 1 << 14
_MAX_REPLY_BYTES = 1 << 24
#: How long the requests of one task may take where they are computed one after the other: enough to make little of what
#: a task costs (about 0.1 ms), and little enough for the next op not to wait for them all.
_TASK_S = 2e-3
#: The weight of a new measurement of how long a request takes.
_NEW_WEIGHT = 0.2
#: A number of 64 bits with its sign.
_MAX_LOG_ID_CHARS = 20
#: Plans that are kept, by the sizes of the blocks and the number of requests.
_MAX_PLANS = 256


class WrongOutputError(EngineError):
    """An op returned what cannot be used."""


class WrongFeedsError(EngineError):
    """The preprocess of an op returned feeds that do not fit its model."""


class OpBatcher(Batcher):
    """The queue of one op with Python."""

    def __init__(
        self,
        backend: Backend,
        loop: AbstractEventLoop,
        limits: Limits,
        capacity: int,
        stats: ModelStats,
        *,
        by_op: bool,
        has_model: bool,
    ) -> None:
        """Prepare; must be called in the loop's thread.

        Args:
            backend: the op's worker processes; it is started.
            loop: the running loop.
            limits: ``max_rows`` are the requests that a worker takes at a time.
            capacity: worker processes.
            stats: counts.
            by_op: whether the names of a request's inputs are ops, as Paddle Serving's ops want it.
            has_model: whether requests gain from being computed together; those of Python alone do not.
        """
        queue = OpQueue(limits.max_rows if has_model else 1, limits.max_delay_s, capacity)
        super().__init__(backend, loop, limits, capacity, stats, queue)
        self._op_queue = queue
        self._has_model = has_model
        self._seconds_per_request = 0.0
        self._by_op = by_op
        self._reply_bytes = _FIRST_REPLY_BYTES
        self._plans: dict[tuple[int, int, int], OpPlan] = {}
        self._last_number = 0

    # ---- requests

    def _prepare(self, request: InferRequest) -> None:
        request.rows = 1

    def _open(self, requests: list[InferRequest]) -> tuple[Plan, Placement]:
        """Pack the inputs of several requests into one block."""
        outside: list[Array] = []

        def find_outside(array: Array) -> int | None:
            if array.nbytes < _OUTSIDE_BYTES or not _is_readable(array):
                return None
            outside.append(array)
            return len(outside) - 1

        try:
            packed = Packed([self._describe(request) for request in requests], find_outside)
        except NotPackable as error:
            raise ShapeError(f"input {error.describe(skip=2)}") from None
        if outside:
            block = self._backend.empty(packed.size_bytes, "u1")
            packed.write_to(block)
            arrays = [block, *outside]
            plan = OpPlan(arrays, len(requests), self._reply_bytes)
            return plan, self._backend.place(plan, arrays, in_place=True)
        plan = self._plan(packed.size_bytes, len(requests))
        placement, (target,) = self._backend.place_rows(plan)
        packed.write_to(target)
        return plan, placement

    def _describe(self, request: InferRequest) -> dict[str, Any]:
        """Return a request as the worker gets it."""
        inputs = dict(zip(request.names, request.inputs, strict=True))
        if not self._by_op:
            return {"inputs": inputs}
        self._last_number += 1
        return {"inputs": inputs, "data_id": self._last_number, "log_id": _log_id_of(request)}

    def _plan(self, size_bytes: int, requests: int) -> OpPlan:
        key = (block_bytes(size_bytes), self._reply_bytes, requests)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[key] = OpPlan([stand_in(key[0])], requests, self._reply_bytes)
        return plan

    # ---- replies

    def _answer_each(self, call: BatchCall, outputs: dict[str, Array]) -> None:
        reply = outputs[REPLY]
        if self._reply_bytes < reply.size <= _MAX_REPLY_BYTES:
            self._reply_bytes = block_bytes(reply.size)
        if not self._has_model:
            self._bound_tasks(call.compute_ns / 1e9 / call.rows)
        now_s = time.monotonic()
        for request, outcome in zip(call.requests, unpack(reply), strict=True):
            if "outputs" in outcome:
                self._answer(request, call, outcome["outputs"], now_s)
            else:
                self._fail(request, _make_error(outcome["error"], call.worker), now_s)

    def _bound_tasks(self, seconds_per_request: float) -> None:
        """Let a task have as many requests as take :data:`_TASK_S`, by a new measurement of one."""
        known = self._seconds_per_request or seconds_per_request
        self._seconds_per_request = known + _NEW_WEIGHT * (seconds_per_request - known)
        fitting = int(_TASK_S / max(self._seconds_per_request, 1e-9))
        self._op_queue.max_requests = max(1, min(self.limits.max_rows, fitting))


class ObservedOpBatcher(Observed, OpBatcher):
    """The same, observed."""


def _log_id_of(request: InferRequest) -> int:
    """Return a request's id where it is a number, as those of Paddle Serving's clients are; else 0."""
    is_number = len(request.id) <= _MAX_LOG_ID_CHARS and request.id.removeprefix("-").isdecimal()
    return int(request.id) if is_number and request.id.isascii() else 0


def _is_readable(array: Array) -> bool:
    """Whether workers can read an array where it lies."""
    if not array.flags.c_contiguous or not array.dtype.isnative:
        return False
    allocation = find_allocation(array)
    return allocation is not None and allocation.segment.fd >= 0


def _make_error(error: Sequence[Any], worker: str) -> Exception:
    """Return the error of a reply: (kind, code, text, traceback)."""
    kind, code, text, traceback = error
    if kind == failures.PRODUCT:
        return RefusedError(text, code=code)
    if kind == failures.INPUT:
        return ShapeError(text)
    if kind == failures.FEEDS:
        return WrongFeedsError(text, device=worker)
    if kind == failures.OUTPUT:
        return WrongOutputError(text, device=worker)
    return EngineError(text, device=worker, remote_traceback=traceback)
