"""The batcher of a model: the rows of requests are joined into one array for each input, and the outputs are split."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop

from ascend_parallel.backends.backend import Backend
from ascend_parallel.backends.call import Placement
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.join import split, why_not_split
from ascend_parallel.batching.model import Model
from ascend_parallel.batching.plan import Plan

from .batch_builder import BatchBuilder
from .batcher import BatchCall, Batcher, Limits
from .log import logger
from .model_stats import ModelStats
from .request import InferRequest
from .request_queue import RequestQueue

#: Tasks of a request at most: a larger one would keep all others waiting.
MAX_TASKS = 1024
#: Keys of requests that are remembered because their outputs cannot be split.
_MAX_UNSPLIT = 1024


class RowBatcher(Batcher):
    """The queue of one model."""

    def __init__(
        self,
        backend: Backend,
        model: Model,
        loop: AbstractEventLoop,
        limits: Limits,
        capacity: int,
        stats: ModelStats,
    ) -> None:
        """Prepare; must be called in the loop's thread.

        Args:
            backend: who computes; it is started.
            model: plans batches of up to ``limits.max_rows`` rows as one task.
            loop: the running loop.
            limits: of the queue and the batches.
            capacity: batches that are computed at the same time.
            stats: counts.
        """
        queue = RequestQueue(limits.max_rows, limits.max_delay_s, capacity)
        super().__init__(backend, loop, limits, capacity, stats, queue)
        self._times = queue.times
        self._batch_axes = model.batch_axes
        self._builder = BatchBuilder(backend, model, limits.max_rows * MAX_TASKS)
        self._unsplit: set[int] = set()  # keys of requests that were found not to be split
        self._fixed_outputs = model.fixed_outputs if _takes_any_rows(model) else []
        if self._fixed_outputs:
            names = ", ".join(map(repr, self._fixed_outputs))
            logger.warning("requests for model %s are not joined: the model fixes axis 0 of %s", stats.name, names)

    def _prepare(self, request: InferRequest) -> None:
        """Find the rows of a request; raises ShapeError and TooLargeError."""
        self._builder.look_at(request)
        layout = request.layout
        has_fixed_outputs = bool(self._fixed_outputs) and layout.fixed_rows is None
        request.is_alone = not layout.can_join or has_fixed_outputs or request.key in self._unsplit

    def _open(self, requests: list[InferRequest]) -> tuple[Plan, Placement]:
        return self._builder.open(requests)

    def _answer_each(self, call: BatchCall, outputs: dict[str, Array]) -> None:
        if len(call.plan.chunks) == 1:
            self._times.note(call.rows, call.compute_ns / 1e9)
        requests = call.requests
        now_s = time.monotonic()
        if len(requests) == 1:
            self._answer(requests[0], call, outputs, now_s)
            return
        whole = requests[0].layout.fixed_rows or call.rows
        reason = why_not_split(outputs, self._batch_axes, whole)
        if reason:
            self._stop_joining(requests[0].key, reason)
            self._retry(requests)
            return
        start = 0
        for request in requests:
            stop = start + request.rows
            self._answer(request, call, split(outputs, self._batch_axes, whole, start, stop), now_s)
            start = stop

    def _stop_joining(self, key: int, reason: str) -> None:
        """Join no more requests of this key."""
        if not self._unsplit:
            logger.warning("such requests for model %s are not joined any more: %s", self._stats.name, reason)
        if len(self._unsplit) >= _MAX_UNSPLIT:
            self._unsplit.clear()
        self._unsplit.add(key)


def _takes_any_rows(model: Model) -> bool:
    return any(spec.shape and not isinstance(spec.shape[0], int) for spec in model.inputs or ())
