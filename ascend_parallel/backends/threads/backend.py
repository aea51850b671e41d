"""The thread backend: instances of the models in this process, one thread each.

All instances take tasks from one queue, so that slow and fast devices even out. A thread that completes the last task
of a call notifies its caller, and runs the callbacks of its future. The watchdog's thread fails the calls of overdue
tasks. It cannot end the thread that computes one: that instance is lost, and the others go on.

The lock guards the state of calls and of instances. It is reentrant, because the handler of a signal may close the
backend in the middle of a call's enqueue.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

from ascend_parallel.backends.allocator import Allocator
from ascend_parallel.backends.backend import AHEAD_S, Backend
from ascend_parallel.backends.call import Call, Task, fail_calls
from ascend_parallel.backends.diagnostics import engine_error
from ascend_parallel.backends.worker_spec import Limits, WorkerSpec
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.plan import Plan
from ascend_parallel.errors import EngineError, RunnerClosedError, UsageError, WorkerError, WorkerTimeout
from ascend_parallel.waiting import SIGNAL_LATENCY_S

from .building import Build, group_by_weights
from .instance import Instance
from .placement import LocalPlacement, empty_inputs

#: How long closing waits for the threads: they end when they are done with the task that they compute.
CLOSE_GRACE_S = 5.0


class ThreadBackend(Backend):
    """Runs tasks in threads of this process.

    Attributes:
        queue: the tasks that wait for an instance; a None ends an instance.
    """

    def __init__(self, specs: Sequence[WorkerSpec], limits: Limits, *, can_share: bool) -> None:
        """Prepare; nothing is built.

        Args:
            specs: what runs on each device; ``instances`` threads of each.
            limits: the times to keep; there are no retries and no restarts.
            can_share: whether instances can share one set of weights.
        """
        super().__init__()
        self.queue: SimpleQueue[Task | None] = SimpleQueue()
        self._specs = list(specs)
        self._limits = limits
        self._lock = threading.RLock()
        self._allocator = Allocator()
        self._built = threading.Semaphore(0)
        self._builds = [Build(group, self._built) for group in group_by_weights(specs, can_share)]
        self._instances: list[Instance] = []
        self._own_threads: set[int | None] = set()
        self._watchdog = threading.Thread(target=self._watch, name="ascend-parallel watchdog", daemon=True)
        self._wake = threading.Event()
        self._next_deadline_s = float("inf")

    # ---- life

    def start(self) -> None:
        """Build the models of all devices at the same time, then start the instances' threads."""
        for build in self._builds:
            build.thread.start()
        deadline_s = time.monotonic() + self._limits.build_timeout_s
        for _ in self._builds:
            self._await_build(deadline_s)
        self.descriptions = self._builds[0].description
        built = [made for build in self._builds for made in build.instances]
        self._builds = []  # from here on, the instances alone hold their engines
        self._instances = [Instance(spec, engines, self) for spec, engines in built]
        self._watchdog.start()
        for instance in self._instances:
            instance.thread.start()
        self._own_threads = {thread.ident for thread in (self._watchdog, *(i.thread for i in self._instances))}

    def _await_build(self, deadline_s: float) -> None:
        """Wait for one of the builds to end; raise what it failed with."""
        while not self._built.acquire(timeout=max(0.0, min(SIGNAL_LATENCY_S, deadline_s - time.monotonic()))):
            if time.monotonic() >= deadline_s:
                spec = next(build.specs[0] for build in self._builds if build.thread.is_alive())
                raise WorkerTimeout(
                    f"the thread of {spec.label} did not build its model in {self._limits.build_timeout_s:g} s; if it "
                    "needs longer, raise build_timeout_s",
                    device=spec.device,
                )
        for build in self._builds:
            if build.error is not None:
                raise engine_error(build.specs[0], "building", *build.error)

    def close(self) -> None:
        """End all threads; open calls fail. A thread that is stuck in its engine is named in a RuntimeWarning."""
        if not self.is_own:
            return
        with self._lock:
            if self._state.is_closing:
                return
            self._state.is_closing = True
            open_calls = self._take_open_calls()
            for _ in self._instances:
                self.queue.put(None)
        self._fail_calls(open_calls, RunnerClosedError("the runner was closed while this call was under way"))
        self._wake.set()
        self._join()
        self._detach_all()
        self._allocator.close()

    def _join(self) -> None:
        threads = [i.thread for i in self._instances] + [b.thread for b in self._builds] + [self._watchdog]
        deadline_s = time.monotonic() + CLOSE_GRACE_S
        for thread in threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(0.0, deadline_s - time.monotonic()))
        for build in self._builds:
            build.close()
        stuck = [repr(t.name) for t in threads if t.is_alive() and t is not threading.current_thread()]
        if stuck:
            warnings.warn(
                f"the runner is closed, but {' and '.join(stuck)} did not come back from the engine in "
                f"{CLOSE_GRACE_S:g} s; a thread cannot be ended, so that its memory is held until this process ends",
                RuntimeWarning,
                stacklevel=4,
            )

    def check_may_wait(self, method: str) -> None:
        """Raise UsageError in a future's callback, and in a model: a thread that computes must not wait for others."""
        if threading.get_ident() in self._own_threads:
            raise UsageError(
                f"{method} was called in a future's callback or by a model, in a thread of the runner's, where it "
                "would wait for itself; use submit"
            )

    # ---- calls

    def place(self, plan: Plan, arrays: Sequence[Array], *, in_place: bool) -> LocalPlacement:
        """Take memory for the outputs; inputs stay where they are, whatever ``in_place`` says."""
        return LocalPlacement(plan, arrays, self._allocator)

    def place_rows(self, plan: Plan) -> tuple[LocalPlacement, list[Array]]:
        """Take memory for inputs and outputs."""
        inputs = empty_inputs(plan, self._allocator)
        return LocalPlacement(plan, inputs, self._allocator), inputs

    def enqueue(self, call: Call) -> None:
        """Queue the tasks of a call."""
        try:
            if call.timeout_s is None:
                call.timeout_s = self._limits.predict_timeout_s
            tasks = [Task(call, index) for index in range(len(call.plan.chunks))]
            with self._lock:
                self.check_open()
                for task in tasks:
                    if call.is_recorded:
                        call.note_written(task.index)
                    self.queue.put(task)
                if self._state.is_closing:  # by the handler of a signal, just now
                    self.cancel(call)
        except BaseException:
            self.cancel(call)
            raise

    def wait(self, call: Call) -> Any:
        """Wait until the thread that completes the call notifies."""
        self._check_own()
        try:
            while call.is_open and not call.wait(SIGNAL_LATENCY_S):
                pass
        except BaseException:  # Ctrl-C
            self.cancel(call)
            raise
        return call.outputs()

    def wait_ahead(self, call: Call) -> None:
        """Wait until the call is completed, but not for long."""
        call.wait(AHEAD_S)

    def cancel(self, call: Call) -> None:
        """Give a call up: its queued tasks are skipped, and what is being computed is dropped."""
        self._fail_calls([call], RunnerClosedError("the call was abandoned"))

    def stats(self) -> dict[str, Any]:
        """Return the figures of each device's instances, and the memory in use."""
        return {
            "workers": {spec.label: self._stats_of(spec) for spec in self._specs},
            "shared_memory": self._allocator.stats(),
        }

    def _stats_of(self, spec: WorkerSpec) -> dict[str, Any]:
        instances = [instance for instance in self._instances if instance.spec is spec]
        return {
            "state": "out" if all(instance.is_lost for instance in instances) else "ready",
            "pid": os.getpid(),
            "tasks": sum(instance.tasks for instance in instances),
            "rows": sum(instance.rows for instance in instances),
            "busy_s": sum(instance.busy_ns for instance in instances) / 1e9,
            "restarts": 0,
        }

    def empty(self, shape: Any, dtype: Any) -> Array:
        """Return an uninitialised array; raises UsageError."""
        return self._allocator.empty(shape, dtype)

    # ---- for the instances' threads

    def start_clock(self, instance: Instance, task: Task) -> None:
        """Note that an instance begins to compute a task."""
        assert task.call.timeout_s is not None
        instance.task = task
        instance.deadline_s = deadline_s = time.monotonic() + task.call.timeout_s
        if deadline_s < self._next_deadline_s:
            self._wake.set()

    def complete(
        self, instance: Instance, task: Task, outputs: dict[str, Array] | None, started_ns: int, finished_ns: int
    ) -> None:
        """Take the outputs of a task; None where they were written to their destinations."""
        call = task.call
        is_completed = False
        with self._lock:
            if not self._stop_clock(instance):
                return
            instance.tasks += 1
            instance.rows += task.rows
            instance.busy_ns += finished_ns - started_ns
            if call.is_open:
                if call.is_recorded:
                    call.note_reply(task, instance.spec.label, started_ns, finished_ns)
                is_completed = call.complete(task, outputs)
        if is_completed:
            call.notify()

    def fail(self, instance: Instance, task: Task, error: tuple[str, str, str]) -> None:
        """Take what an engine raised: (type, text, traceback)."""
        with self._lock:
            is_own = self._stop_clock(instance)
        if is_own:
            self._fail_calls([task.call], engine_error(instance.spec, "predicting", *error))

    def lose_broken(self, instance: Instance, task: Task) -> None:
        """Give an instance up whose engine is broken; another computes its task."""
        spec = instance.spec
        text = f"an instance of {spec.label} is broken and gets no more tasks; see its lines above"
        with self._lock:
            if not self._stop_clock(instance):
                return
            open_calls = self._lose(instance, EngineError(text, device=spec.device))
            if self._state.error is None and not self._state.is_closing:
                self.queue.put(task)
                return
        error = self._state.error or RunnerClosedError("the runner was closed while this call was under way")
        self._fail_calls([task.call, *open_calls], error)

    def _stop_clock(self, instance: Instance) -> bool:
        """Note that an instance is done; return False where it was given up meanwhile. The lock is held."""
        instance.task = None
        instance.deadline_s = float("inf")
        return not instance.is_lost

    # ---- failures

    def _fail_calls(self, calls: Sequence[Call], error: Exception) -> None:
        """Fail those of the calls that are open, and notify their callers without the lock."""
        fail_calls(calls, error, self._lock)

    def _take_open_calls(self) -> list[Call]:
        """Empty the queue; return the calls of all tasks that were queued or are computed. The lock is held."""
        tasks = [instance.task for instance in self._instances if instance.task is not None]
        try:
            while True:
                task = self.queue.get_nowait()
                if task is not None:
                    tasks.append(task)
        except Empty:
            pass
        return [task.call for task in tasks]

    def _lose(self, instance: Instance, error: WorkerError) -> list[Call]:
        """Give an instance up; return the calls that now fail, because it was the last one. The lock is held."""
        instance.is_lost = True
        if not all(other.is_lost for other in self._instances):
            return []
        self._state.error = WorkerError(
            f"no instance is left: each was lost to a task that did not end, or broke; the last: {error}; close the "
            "runner and build a new one, or use workers='processes', where a hung worker is replaced",
            device=error.device,
        )
        return self._take_open_calls()

    # ---- the watchdog's thread

    def _watch(self) -> None:
        while not self._state.is_closing:
            # The deadline first: an instance that sets its clock after it was looked at wakes this thread.
            self._next_deadline_s = float("inf")
            now_s = time.monotonic()
            overdue = [instance for instance in self._instances if instance.deadline_s <= now_s]
            for instance in overdue:
                self._time_out(instance, now_s)
            next_s = self._next_deadline_s = min(instance.deadline_s for instance in self._instances)
            self._wake.wait(None if next_s == float("inf") else max(0.0, next_s - time.monotonic()))
            self._wake.clear()

    def _time_out(self, instance: Instance, now_s: float) -> None:
        spec = instance.spec
        with self._lock:
            task = instance.task
            if task is None or instance.deadline_s > now_s:  # it has just ended
                return
            error = WorkerTimeout(
                f"an instance of {spec.label} did not answer in {task.call.timeout_s:g} s and is lost, as a thread "
                "cannot be ended; if a predict may take longer, raise predict_timeout_s",
                device=spec.device,
            )
            instance.deadline_s = float("inf")
            instance.task = None
            open_calls = self._lose(instance, error)
        self._fail_calls([task.call], error)
        if self._state.error is not None:
            self._fail_calls(open_calls, self._state.error)
