"""One request, from its protocol to its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.join import Rows

from .log import logger

INF = float("inf")
#: Inputs of so many bytes are received in the memory that is shared with the workers.
LARGE_BYTES = 1 << 16
#: The layout of a request that is not queued yet.
NO_ROWS = Rows(0, (), None, can_join=False, is_whole=False)


class InferRequest:
    """Inputs for one model, and what became of them.

    All times are ``time.monotonic`` in seconds.

    Attributes:
        id: the client's name of it; "" for none.
        names: of the inputs, in the model's order once it is queued.
        inputs: the arrays, likewise. They must stay as they are until the request is done.
        on_done: called in the event loop's thread when it is done, once; not after :meth:`cancel`.
        deadline_s: when it is too late to answer.
        arrived_s: when it came.
        sent_s: when its batch went to a worker; 0 while it waits.
        computed_s: when its batch came back; 0 before.
        done_s: when it was answered; 0 before.
        compute_ns: how long the engine computed its batch.
        worker: the label of the worker that computed it.
        batch_rows: rows of the batch that it was part of.
        rows: how many rows it has, once it is queued.
        layout: where they lie in its inputs.
        key: a number, which requests that can be joined have in common.
        is_alone: whether it must not be joined with others.
        outputs: the answer, name -> array.
        error: why there is none.
        template: what says the names, dtypes and shapes of the inputs; None where nothing does. Those of two requests
            with the same object are equal.
        trace_context: the client's ``traceparent``; "" for none.
        wants_values: whether a pipeline answers with what its ops gave; else with tensors.
    """

    __slots__ = (
        "arrived_s",
        "batch_rows",
        "compute_ns",
        "computed_s",
        "deadline_s",
        "done_s",
        "error",
        "id",
        "inputs",
        "is_alone",
        "is_done",
        "key",
        "layout",
        "names",
        "on_done",
        "outputs",
        "rows",
        "sent_s",
        "template",
        "trace_context",
        "wants_values",
        "worker",
    )

    def __init__(
        self,
        names: Sequence[str],
        inputs: Sequence[Array],
        on_done: Callable[[InferRequest], None],
        *,
        id: str = "",
        deadline_s: float = INF,
        trace_context: str = "",
        template: object = None,
    ) -> None:
        self.id = id
        self.names = names
        self.inputs = inputs
        self.on_done = on_done
        self.deadline_s = deadline_s
        self.trace_context = trace_context
        self.template = template
        self.arrived_s = time.monotonic()
        self.sent_s = 0.0
        self.computed_s = 0.0
        self.done_s = 0.0
        self.compute_ns = 0
        self.worker = ""
        self.batch_rows = 0
        self.rows = 0
        self.layout = NO_ROWS
        self.key = 0
        self.is_alone = False
        self.wants_values = False
        self.is_done = False
        self.outputs: dict[str, Array] | None = None
        self.error: Exception | None = None

    def answer(self, outputs: dict[str, Array] | None, error: Exception | None, now_s: float) -> None:
        """Store the outputs or the error, and call ``on_done``, which may queue other requests.

        If ``on_done`` cannot deliver the outputs, it sets the error or raises it.
        """
        self.outputs = outputs
        self.error = error
        self.done_s = now_s
        self.is_done = True
        self.inputs = ()
        try:
            self.on_done(self)
        except Exception as fault:  # of one client: the other requests of the batch are answered nevertheless
            logger.exception("the answer of a request could not be delivered")
            self.error = self.error or fault
