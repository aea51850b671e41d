"""The worker processes of one runner and what they have in flight: their slots, replies, deadlines and ends.

This is plain state, without threads of its own. It is not thread-safe: its owner, ``backend.py``, holds a lock.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ascend_parallel.backends.allocator import Allocator
from ascend_parallel.backends.backend import State, WorkerChange
from ascend_parallel.backends.call import Task
from ascend_parallel.backends.diagnostics import (
    describe_death,
    engine_error,
    no_device_left,
)
from ascend_parallel.backends.last_lines import quote
from ascend_parallel.backends.worker_spec import Limits, WorkerSpec
from ascend_parallel.errors import AscendParallelError, RunnerClosedError, WorkerDied, WorkerError, WorkerTimeout
from ascend_parallel.worker.protocol import BUILD_FINISH, ERROR, REPLY

from .scheduler import Scheduler
from .shutdown import Shutdown
from .worker_process import Worker
from .worker_slot import WorkerSlot

#: How long the last lines of a dead worker may take to arrive.
_TAIL_GRACE_S = 0.5
#: How often deadlines are checked at least: replies that nobody comes for, of a map that was given up, hold memory.
_CHECK_S = 1.0
#: How long a worker may live on after it has closed its pipe: an exit is seen within milliseconds.
_DISCONNECT_GRACE_S = 1.0


class WorkerPool:
    """The workers of one runner.

    Attributes:
        slots: one for each worker wanted.
        scheduler: the queue of tasks.
        descriptions: what a worker said of the models, once one has built them.
        built: set when all have built their models, or the first has failed to.
        changes: what has become of workers since the first were built, to be told.
        exited: workers whose processes have ended, to be reaped; any thread may append.
        shutdown: the end of all workers, once it has begun.
        is_inconsistent: a Ctrl-C has hit in the middle of an update.
        next_deadline_s: when :meth:`check_deadlines` is to be called next (``time.monotonic``).
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        limits: Limits,
        allocator: Allocator,
        state: State,
        start: Callable[[WorkerSpec], Worker],
        wake: Callable[[], None],
    ) -> None:
        """Make the slots; nothing is started.

        Args:
            specs: what runs in each slot.
            limits: the times and numbers to keep.
            allocator: the shared memory of the calls.
            state: the backend's. An error is set when a first build fails, and when no device is left; while it is
                closing, dead workers are not replaced.
            start: starts a worker; called in the supervisor's thread.
            wake: has the supervisor's thread call :meth:`reap` and :meth:`check_deadlines`.
        """
        self.slots = [WorkerSlot(spec) for spec in specs]
        self.scheduler = Scheduler(
            allocator, predict_timeout_s=limits.predict_timeout_s, max_retries=limits.max_retries
        )
        self.descriptions: dict[str, Any] = {}
        self.built = threading.Event()
        self.changes: deque[WorkerChange] = deque()
        self.exited: deque[Worker] = deque()
        self.shutdown: Shutdown | None = None
        self.is_inconsistent = False
        self.next_deadline_s = float("inf")
        self._check_every_s = min(_CHECK_S, limits.predict_timeout_s)
        self._limits = limits
        self._state = state
        self._start = start
        self._wake = wake
        self._slot_of: dict[int, WorkerSlot] = {}
        self._building: set[Worker] = set()
        self._receiving_from: Worker | None = None

    @property
    def workers(self) -> list[Worker]:
        """Those that run, or are about to end."""
        return [slot.worker for slot in self.slots if slot.worker is not None]

    @property
    def is_gone(self) -> bool:
        """Whether the shutdown is over."""
        return self.shutdown is not None and (self.shutdown.has_given_up or not self.workers)

    def has_unattended(self) -> bool:
        """Whether a worker will send something that no thread waits for."""
        return bool(self._building) or self.scheduler.has_unattended()

    # ---- to the workers

    def enqueue(self, tasks: Sequence[Task]) -> None:
        """Queue tasks of one call, and send those for which a worker has room."""
        try:
            if self.is_inconsistent:
                self.recover()
            timeout_s = tasks[0].call.timeout_s
            if timeout_s is not None and timeout_s < self._check_every_s:
                self._check_every_s = timeout_s
                self._wake()
            self.scheduler.enqueue(tasks)
        except BaseException as error:
            self._note_inconsistency(error)
            raise

    def fail_all(self, error: Exception) -> None:
        """Fail all open calls."""
        for call in list(self.scheduler.open_calls):
            self.scheduler.fail(call, error)

    def start_all(self) -> None:
        """Start all workers at the same time."""
        for slot in self.slots:
            self._start_worker(slot)

    def _start_worker(self, slot: WorkerSlot) -> None:
        slot.restart_at_s = float("inf")
        try:
            worker = self._start(slot.spec)
        except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
            text = f"the worker of {slot.spec.label} could not be started: {error}"
            self._replace(slot, WorkerError(text, device=slot.spec.device), None)
            return
        slot.worker = worker
        self._building.add(worker)
        worker.deadline_s = time.monotonic() + self._limits.build_timeout_s
        self.next_deadline_s = min(self.next_deadline_s, worker.deadline_s)
        self._slot_of[worker.fd] = slot

    # ---- from the workers

    def receive(self, events: Sequence[tuple[int, int]]) -> None:
        """Act on the messages that have come through some pipes: (descriptor, event) of each."""
        try:
            if self.is_inconsistent:
                self.recover()
            for fd, _ in events:
                slot = self._slot_of.get(fd)
                if slot is not None and slot.worker is not None:
                    self._receiving_from = slot.worker
                    self._receive_from(slot, slot.worker)
            if self.scheduler.has_queued:
                self.scheduler.dispatch()
        except BaseException as error:
            self._note_inconsistency(error)
            raise

    def _receive_from(self, slot: WorkerSlot, worker: Worker) -> None:
        try:
            messages = worker.receive()
        except (EOFError, OSError):  # a worker that disconnects is of no use any more; its exit will say why it did
            worker.disconnect()
            self.scheduler.set_ready(worker, False)
            worker.deadline_s = time.monotonic() + _DISCONNECT_GRACE_S
            self.next_deadline_s = min(self.next_deadline_s, worker.deadline_s)
            self._wake()
            return
        except Exception as error:  # whatever pickle makes of it
            worker.disconnect()
            text = f"the worker of {slot.spec.label} sent what is no message ({error}) and was killed; does its model "
            text += "write to descriptors that are not its own?"
            self._kill(worker, WorkerError(text, device=slot.spec.device))
            return
        for message in messages:
            if message[0] == REPLY:  # one frame fewer
                self._take_reply(slot, worker, message)
            else:
                self._act_on(slot, worker, message)

    def _act_on(self, slot: WorkerSlot, worker: Worker, message: Any) -> None:
        kind = message[0]
        if kind == REPLY:
            self._take_reply(slot, worker, message)
        elif kind == BUILD_FINISH:
            self._take_build(slot, worker, message[1])
        elif kind == ERROR and message[1] is None:
            self._kill(worker, engine_error(slot.spec, "building", *message[2:]))
        elif kind == ERROR:
            self.scheduler.fail_task(worker, message[1], engine_error(slot.spec, "predicting", *message[2:]))

    def _take_build(self, slot: WorkerSlot, worker: Worker, descriptions: dict[str, Any]) -> None:
        worker.deadline_s = float("inf")
        self._wake()  # the next deadlines are those of predicts, which may be much shorter than a build's
        self._building.discard(worker)
        self.scheduler.set_ready(worker, True)
        self.descriptions = self.descriptions or descriptions
        if self.built.is_set():
            self.changes.append(WorkerChange(slot.spec.label))
        if all(slot.worker is not None and slot.worker.is_ready for slot in self.slots):
            self.built.set()

    def _take_reply(self, slot: WorkerSlot, worker: Worker, message: Any) -> None:
        _, number, outputs, started_ns, finished_ns = message
        arrays = None
        if outputs is not None:
            try:
                arrays = worker.open_outputs(outputs)
            except (EOFError, OSError) as error:  # the task is sent elsewhere
                text = f"the outputs of the worker of {slot.spec.label} could not be received ({error}) and it was "
                text += "killed; has this process used up its descriptors (ulimit -n)?"
                self._kill(worker, WorkerError(text, device=slot.spec.device))
                return
        task = worker.in_flight[number]
        if task.call.is_recorded:
            task.call.note_reply(task, slot.spec.label, started_ns, finished_ns)
        busy_ns = finished_ns - started_ns
        self.scheduler.complete(worker, number, arrays, busy_ns)
        slot.tasks += 1
        slot.rows += task.rows
        slot.busy_ns += busy_ns

    # ---- interrupts

    def _note_inconsistency(self, error: BaseException) -> None:
        """Note that a Ctrl-C (or a fault of ours) may have hit in the middle of an update."""
        if not isinstance(error, AscendParallelError):
            self.is_inconsistent = True
            self._wake()

    def recover(self) -> None:
        """Restore a consistent state: no call of which a reply may be lost stays open."""
        error = WorkerError("the call was given up: an interrupt hit the runner while it read an answer; call again")
        self.fail_all(error)
        for worker in self.workers:
            if worker.is_ready or worker is self._receiving_from:
                worker.disconnect()  # a message may be half read
                worker.counts_against_device = False
                self._kill(worker, error)
        self.is_inconsistent = False

    # ---- ends of workers

    def _kill(self, worker: Worker, failure: WorkerError | None) -> None:
        worker.kill(failure)
        self.scheduler.set_ready(worker, False)

    def reap(self) -> None:
        """Take the workers whose processes have ended out of their slots, and send their tasks elsewhere."""
        while self.exited:
            worker = self.exited.popleft()
            slot = self._slot_of.pop(worker.fd)
            with contextlib.suppress(EOFError, OSError):
                while messages := worker.receive():  # replies that it sent before its end count
                    for message in messages:
                        self._act_on(slot, worker, message)
            if worker.failure is None:
                worker.output.ended.wait(_TAIL_GRACE_S)
            failure = worker.failure or self._death(slot, worker)
            self._building.discard(worker)
            if worker.in_flight and not self._limits.blames_device:
                worker.counts_against_device = False
            self.scheduler.set_ready(worker, False)
            worker.close()
            slot.worker = None
            self.scheduler.reassign(worker, failure)
            if not self._state.is_closing:
                self._replace(slot, failure, worker)
                self.scheduler.dispatch()

    def _death(self, slot: WorkerSlot, worker: Worker) -> WorkerDied:
        doing = "while it was idle"
        if worker.in_flight:
            doing = "during a predict"
        elif worker in self._building:
            doing = "while building"
        return describe_death(slot.spec, doing, worker.exit_code, list(worker.output.tail))

    def _replace(self, slot: WorkerSlot, failure: WorkerError, worker: Worker | None) -> None:
        """Plan the next worker of a slot, unless the first build failed or the slot's workers fail too often.

        ``worker`` is the one that has ended; None where it could not be started.
        """
        if not self.built.is_set():
            self._state.error = self._state.error or failure
            self.built.set()
            return
        has_computed = worker is not None and bool(worker.seconds_per_row)
        if worker is not None and not worker.counts_against_device:
            slot.restart_now(time.monotonic())
            self.next_deadline_s = slot.restart_at_s
        elif slot.plan_restart(time.monotonic(), self._limits.max_restarts, has_computed=has_computed):
            self.next_deadline_s = min(self.next_deadline_s, slot.restart_at_s)
        elif all(slot.is_out for slot in self.slots):
            self._state.error = no_device_left(failure)
            self.fail_all(self._state.error)
        self.changes.append(WorkerChange(slot.spec.label, failure, slot.is_out))

    # ---- deadlines

    def check_deadlines(self) -> None:
        """Do what is due. Callers start clocks without waking the supervisor, so it checks at least so often."""
        now_s = time.monotonic()
        if now_s < self.next_deadline_s:
            self.next_deadline_s = min(self.next_deadline_s, now_s + self._check_every_s)
            return
        for slot in self.slots:
            if slot.worker is not None:
                self._kill_if_overdue(slot, slot.worker, now_s)
            elif slot.restart_at_s <= now_s and self.shutdown is None:
                self._start_worker(slot)
        if self.shutdown is not None and self.shutdown.due_s <= now_s:
            self.shutdown.advance(self.workers)
        self.next_deadline_s = min([now_s + self._check_every_s, *self._due_times()])

    def _kill_if_overdue(self, slot: WorkerSlot, worker: Worker, now_s: float) -> None:
        spec = slot.spec
        if worker.deadline_s <= now_s and worker.is_disconnected:
            self._kill(worker, self._death(slot, worker))
        elif worker.deadline_s <= now_s:
            limit_s = self._limits.build_timeout_s
            text = f"the worker of {spec.label} did not build its model in {limit_s:g} s and was killed; if it needs "
            text += "longer, raise build_timeout_s"
            self._kill(worker, WorkerTimeout(text + quote(list(worker.output.tail)), device=spec.device))
        elif worker.is_ready and self.scheduler.due_s(worker) <= now_s:
            self._kill(worker, self.scheduler.time_out(worker, now_s, functools.partial(_overdue, spec)))

    def _due_times(self) -> Iterator[float]:
        for slot in self.slots:
            yield slot.restart_at_s
            if slot.worker is not None:
                yield slot.worker.deadline_s
                if slot.worker.is_ready:
                    yield self.scheduler.due_s(slot.worker)
        if self.shutdown is not None:
            yield self.shutdown.due_s

    # ---- the end

    def begin_shutdown(self) -> None:
        """Have all workers end; open calls fail."""
        self.shutdown = Shutdown(self.workers)
        self.next_deadline_s = min(self.next_deadline_s, self.shutdown.due_s)
        self.fail_all(RunnerClosedError("the runner was closed while this call was under way"))


def _overdue(spec: WorkerSpec, limit_s: float) -> WorkerTimeout:
    text = f"the worker of {spec.label} did not answer in {limit_s:g} s and was killed; if a predict may take longer, "
    return WorkerTimeout(text + "raise predict_timeout_s", device=spec.device)
