"""One instance of the models: a thread that computes one task after the other."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ascend_parallel.backends.call import Task
from ascend_parallel.backends.worker_spec import WorkerSpec
from ascend_parallel.worker.building import close_all
from ascend_parallel.worker.engines import Engine, EngineBroken
from ascend_parallel.worker.results import describe_error, write_to_destinations

from .placement import LocalPlacement

if TYPE_CHECKING:
    from .backend import ThreadBackend


class Instance:
    """A thread and its engines, one for each model.

    Attributes:
        spec: what it was started with.
        thread: the thread.
        task: what it computes now; None while it waits for a task.
        deadline_s: when ``task`` is overdue (``time.monotonic``); inf where there is none.
        is_lost: its task was overdue, or its engine is broken: it gets no more tasks.
        tasks: how many it has computed.
        rows: how many rows these had.
        busy_ns: how long the engine computed them.
    """

    def __init__(self, spec: WorkerSpec, engines: dict[str, Engine], backend: ThreadBackend) -> None:
        """Prepare; the thread is started by its owner."""
        self.spec = spec
        self.task: Task | None = None
        self.deadline_s = float("inf")
        self.is_lost = False
        self.tasks = 0
        self.rows = 0
        self.busy_ns = 0
        self.thread = threading.Thread(
            target=self._run, args=(engines, backend), name=f"ascend-parallel {spec.label}", daemon=True
        )

    def _run(self, engines: dict[str, Engine], backend: ThreadBackend) -> None:
        """Compute one task after the other, until there is a None in the queue or the instance is lost."""
        while not self.is_lost:
            task = backend.queue.get()
            if task is None:
                break
            if task.call.is_open:
                self._compute(task, engines[task.call.plan.model_name], backend)
            del task  # the next wait must not hold this task's memory
        close_all(engines)

    def _compute(self, task: Task, engine: Engine, backend: ThreadBackend) -> None:
        call = task.call
        placement = call.placement
        assert isinstance(placement, LocalPlacement)
        backend.start_clock(self, task)
        outputs: dict[str, Any] | None = None
        started_ns = time.perf_counter_ns()
        try:
            destinations = placement.destinations_of(task.index)
            results = engine.predict(call.plan.names, placement.inputs_of(task.index), destinations)
            if not destinations or not write_to_destinations(results, destinations):
                outputs = {name: np.array(array) for name, array in results.items()}
        except EngineBroken:
            backend.lose_broken(self, task)
        except BaseException as error:  # in a thread, SystemExit and KeyboardInterrupt are errors like all others
            backend.fail(self, task, describe_error(error))
        else:
            backend.complete(self, task, outputs, started_ns, time.perf_counter_ns())
