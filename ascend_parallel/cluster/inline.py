"""The backend of an actor with one instance: the thread that Ray calls computes, so that no other has to wake up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np

from ascend_parallel.backends.allocator import Allocator
from ascend_parallel.backends.backend import Backend
from ascend_parallel.backends.call import Call, Task
from ascend_parallel.backends.diagnostics import engine_error
from ascend_parallel.backends.threads.placement import LocalPlacement, empty_inputs
from ascend_parallel.backends.worker_spec import WorkerSpec
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.plan import Plan
from ascend_parallel.errors import WorkerError
from ascend_parallel.worker.building import build, close_all
from ascend_parallel.worker.engines import Engine, EngineBroken
from ascend_parallel.worker.results import describe_error, write_to_destinations


class InlineBackend(Backend):
    """Computes the tasks of a call when it is waited for, in the thread that waits.

    Engines belong to one thread, and Ray calls the actor in one: the second bundle of a host waits in Ray's queue. A
    task that hangs is noticed by the driver.

    Attributes:
        is_last: whether the outputs of the next call are used before another. Then those of its only task are not
            copied.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        """Prepare; nothing is built."""
        super().__init__()
        self._spec = spec
        self._engines: dict[str, Engine] = {}
        self.is_last = False
        self._allocator = Allocator()
        self._counts = {"tasks": 0, "rows": 0, "busy_s": 0.0}

    def start(self) -> None:
        """Build the models."""
        try:
            (self._engines,), self.descriptions = build(self._spec.request, 1)
        except Exception as error:
            raise engine_error(self._spec, "building", *describe_error(error)) from error

    def check_may_wait(self, method: str) -> None:
        """Do nothing: there is no thread that would wait for itself."""

    def place(self, plan: Plan, arrays: Sequence[Array], *, in_place: bool) -> LocalPlacement:
        """Take memory for the outputs of several tasks; inputs stay where they are."""
        return _InlinePlacement(plan, arrays, self._allocator)

    def place_rows(self, plan: Plan) -> tuple[LocalPlacement, list[Array]]:
        """Take memory for inputs and outputs."""
        inputs = empty_inputs(plan, self._allocator)
        return LocalPlacement(plan, inputs, self._allocator), inputs

    def enqueue(self, call: Call) -> None:
        """Do nothing: :meth:`wait` computes."""
        self.check_open()

    def wait(self, call: Call) -> Any:
        """Compute the tasks of a call, one after the other; return its outputs, or raise its error."""
        self.check_open()
        engine = self._engines[call.plan.model_name]
        for index in range(len(call.plan.chunks)):
            self._compute(call, Task(call, index), engine)
        return call.outputs()

    def _compute(self, call: Call, task: Task, engine: Engine) -> None:
        placement = call.placement
        assert isinstance(placement, LocalPlacement)
        started_ns = perf_counter_ns()
        try:
            destinations = placement.destinations_of(task.index)
            results = engine.predict(call.plan.names, placement.inputs_of(task.index), destinations)
            is_written = bool(destinations) and write_to_destinations(results, destinations)
            outputs = None if is_written else self._keep(call, results)
        except EngineBroken:
            text = f"the engine of {self._spec.label} is broken"
            self._state.error = error = WorkerError(text, device=self._spec.device)
            raise error from None
        except Exception as error:
            raise engine_error(self._spec, "predicting", *describe_error(error)) from error
        self._counts["tasks"] += 1
        self._counts["rows"] += task.rows
        self._counts["busy_s"] += (perf_counter_ns() - started_ns) / 1e9
        call.complete(task, outputs)

    def _keep(self, call: Call, results: dict[str, Array]) -> dict[str, Array]:
        """Return results that the engine does not overwrite before they are used."""
        is_used_first = self.is_last and len(call.plan.chunks) == 1
        return results if is_used_first else {name: np.array(array) for name, array in results.items()}

    def cancel(self, call: Call) -> None:
        """Do nothing: a call is computed by the thread that waits for it."""

    def wait_ahead(self, call: Call) -> None:
        """Do nothing, likewise."""

    def stats(self) -> dict[str, Any]:
        """Return the figures of the instance."""
        state = "ready" if self._state.error is None else "out"
        return {
            "workers": {self._spec.label: {"state": state, "pid": os.getpid(), **self._counts, "restarts": 0}},
            "shared_memory": self._allocator.stats(),
        }

    def empty(self, shape: Any, dtype: Any) -> Array:
        """Return an uninitialised array."""
        return self._allocator.empty(shape, dtype)

    def close(self) -> None:
        """Close the engines, in the thread that uses them: Ray calls the actor in one."""
        if self._state.is_closing:
            return
        self._state.is_closing = True
        close_all(self._engines)
        self._engines = {}
        self._allocator.close()


class _InlinePlacement(LocalPlacement):
    """Outputs of one task are what the engine returns: its own memory is quicker than a place of ours."""

    def place_outputs(self) -> None:
        """Take memory for the outputs, if there are several tasks, and their shapes are known by now."""
        if len(self._plan.chunks) > 1:
            super().place_outputs()
        else:
            self.needs_shapes = False
