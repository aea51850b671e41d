"""One request's way through the ops of a pipeline."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from ascend_parallel.batching.model import to_array
from ascend_parallel.errors import (
    AscendParallelError,
    DeadlineError,
    EngineError,
    RefusedError,
    UsageError,
    WorkerError,
)
from ascend_parallel.serving.batcher import describe_fault
from ascend_parallel.serving.error_text import reason_of
from ascend_parallel.serving.request import InferRequest
from ascend_parallel.serving.served_model import ServedModel

from .graph import REQUEST, Graph, Values, collect, collect_by_op

#: Called with the outputs or the error, once.
OnDone = Callable[["PipelineRun", "Values | None", "Exception | None"], None]


class Step:
    """An op of a pipeline, as requests go through it.

    Attributes:
        name: of the op.
        served: what computes it.
        retries: how often a request is tried again after the op failed with it.
        by_op: whether it wants its inputs by the ops that they come from.
        takes_arrays: whether it is a model, which takes nothing but arrays.
    """

    __slots__ = ("by_op", "name", "retries", "served", "takes_arrays")

    def __init__(self, name: str, served: ServedModel, *, retries: int, by_op: bool) -> None:
        self.name = name
        self.served = served
        self.retries = retries
        self.by_op = by_op
        self.takes_arrays = not served.takes_text


class PipelineRun:
    """One request in a pipeline. Everything runs in the event loop's thread.

    An op begins as soon as all that it reads is there. What an op gave is let go of as soon as all its readers have
    begun.

    Attributes:
        request: the request.
        is_done: whether it was answered, or given up.
        is_logged: whether an op has logged why it failed.
    """

    def __init__(self, graph: Graph, steps: Mapping[str, Step], request: InferRequest, on_done: OnDone) -> None:
        """Prepare; :meth:`start` begins."""
        self.request = request
        self.is_done = False
        self.is_logged = False
        self._graph = graph
        self._steps = steps
        self._on_done = on_done
        self._values: dict[str, Values] = {REQUEST: dict(zip(request.names, request.inputs, strict=True))}
        request.inputs = ()  # they are let go of as soon as the ops that read them have begun
        self._missing = {op: len(sources) for op, sources in graph.sources.items()}
        self._readers = {op: len(readers) for op, readers in graph.readers.items()}
        for op in graph.answer_ops:
            self._readers[op] += 1
        self._missing_of_answer = len(graph.answer_ops)
        self._running: dict[str, InferRequest] = {}
        self._tries: dict[str, int] = {}

    def start(self) -> None:
        """Begin the ops that read the request alone."""
        self.request.sent_s = time.monotonic()
        self._note_outputs(REQUEST)

    def cancel(self) -> None:
        """Give the request up; ``on_done`` is not called."""
        self.is_done = True
        self._values.clear()
        running, self._running = self._running, {}
        for op, request in running.items():
            self._steps[op].served.cancel(request)

    def fail(self, error: Exception) -> None:
        """End with an error."""
        if not self.is_done:
            self.cancel()
            self._on_done(self, None, error)

    @property
    def is_computing(self) -> bool:
        """Whether a worker has it."""
        return any(made.sent_s for made in self._running.values())

    def describe(self) -> str:
        """Return where it is, as a sentence's end."""
        ops = ", ".join(map(repr, self._running))
        return f"is in op {ops}" if ops else "waits for room in the pipeline"

    # ---- inside

    def _note_outputs(self, op: str) -> None:
        """Begin the ops for which the outputs of this one were the last that they need."""
        for reader in self._graph.readers[op]:
            self._missing[reader] -= 1
            if not self._missing[reader] and not self.is_done:
                self._begin(reader)
        if not self.is_done and op in self._graph.answer_ops:
            self._missing_of_answer -= 1
            if not self._missing_of_answer:
                self._answer()

    def _begin(self, op: str) -> None:
        """Give an op what it reads; fail the request where it cannot take that."""
        step = self._steps[op]
        try:
            self._add(step, self._inputs_of(step))
        except Exception as error:
            self._fail_at(op, describe_fault(error))
            return
        for source in self._graph.sources[op]:
            self._let_go(source)

    def _inputs_of(self, step: Step) -> Mapping[str, Any]:
        wiring = self._graph.wirings[step.name]
        if step.by_op:
            return collect_by_op(wiring, self._values)
        inputs = collect(f"op {step.name!r}", wiring, self._values)
        return {name: to_array(name, value) for name, value in inputs.items()} if step.takes_arrays else inputs

    def _add(self, step: Step, inputs: Mapping[str, Any]) -> None:
        request = self.request
        made = InferRequest(
            tuple(inputs),
            list(inputs.values()),
            functools.partial(self._take, step.name, inputs if step.retries else None),
            id=request.id,
            deadline_s=request.deadline_s,
            trace_context=request.trace_context,
        )
        self._running[step.name] = made
        step.served.add(made)

    def _let_go(self, op: str) -> None:
        self._readers[op] -= 1
        if not self._readers[op]:
            self._values.pop(op, None)

    def _take(self, op: str, inputs: Mapping[str, Any] | None, made: InferRequest) -> None:
        """Take what an op gave, or why it failed."""
        if self.is_done:
            return
        self._running.pop(op, None)
        self.request.id = self.request.id or made.id  # that of the log
        if made.error is not None:
            if inputs is None or not self._try_again(op, inputs, made.error):
                self.is_logged = reason_of(made.error) != "invalid"  # then its batcher has logged it
                self._fail_at(op, made.error)
            return
        assert made.outputs is not None
        self.request.compute_ns += made.compute_ns
        self._values[op] = made.outputs
        self._note_outputs(op)

    def _try_again(self, op: str, inputs: Mapping[str, Any], error: Exception) -> bool:
        """Try an op again with a request, if it may; return whether it is being tried."""
        tries = self._tries.get(op, 0)
        is_late = self.request.deadline_s <= time.monotonic()
        if tries >= self._steps[op].retries or is_late or not isinstance(error, WorkerError | DeadlineError):
            return False
        self._tries[op] = tries + 1
        try:
            self._add(self._steps[op], inputs)
        except AscendParallelError:
            return False
        return True

    def _fail_at(self, op: str, error: Exception) -> None:
        """Fail the request with an error that names the op."""
        self._running.pop(op, None)
        is_of_client = all(source == REQUEST for source in self._graph.sources[op])
        if isinstance(error, UsageError) and not is_of_client:  # other ops gave what this one does not take
            error = EngineError(str(error))
        self.fail(_name_op(error, op))

    def _answer(self) -> None:
        try:
            outputs = collect("the pipeline's answer", self._graph.answer, self._values)
        except UsageError as error:
            self.fail(EngineError(str(error)))
            return
        self.is_done = True
        self._values.clear()
        self._on_done(self, outputs, None)


def _name_op(error: Exception, op: str) -> Exception:
    """Return the same error, with the op in its message; a text of the op's own stays as it is."""
    if isinstance(error, RefusedError) or str(error).startswith(f"op {op!r}"):
        return error
    named = copy.copy(error)
    named.args = (f"op {op!r}: {error}", *error.args[1:])
    return named
