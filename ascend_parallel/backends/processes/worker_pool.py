"""The workers of one runner and what they owe: their seats, their answers, their clocks, their ends.

Plain bookkeeping, without threads of its own and not safe from them: its owner, the supervisor, holds a lock.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ascend_parallel.backends.call import Call, Task
from ascend_parallel.backends.diagnostics import (
    engine_error,
    exit_reason,
    explain,
    explain_start,
    no_device_left,
    quote,
)
from ascend_parallel.errors import AscendParallelError, RunnerClosedError, WorkerDied, WorkerError, WorkerTimeout
from ascend_parallel.worker.protocol import BUILD_FINISH, ERROR, REPLY

from .allocator import Allocator
from .scheduler import Scheduler
from .shutdown import Shutdown
from .worker_process import Worker, WorkerSpec
from .worker_slot import Limits, WorkerSlot

#: How long the last lines of a dead worker may take to arrive.
_TAIL_GRACE_S = 0.5
#: How often the supervisor looks at least: answers that nobody comes for, of a map that was given up, hold memory.
_LOOK_S = 1.0
#: How long a worker may live on after it has closed its pipe: an exit is seen within milliseconds.
_HANG_UP_GRACE_S = 1.0


class WorkerPool:
    """The workers of one runner.

    Attributes:
        seats: one for each worker wanted.
        descriptions: what a worker told of the models, once one has built them.
        built: set when all have built their models, or the first has failed to.
        error: why the runner is of no use: a first build failed, or no device is left.
        exited: workers whose processes have ended, to be taken leave of; anyone may append.
        closing: the end of all workers, once it has begun.
        is_closing: the runner is to be closed: dead workers are not replaced.
        is_torn: a Ctrl-C has hit in the middle of an entry.
        wake_at_s: when :meth:`keep_time` is to be called next (``time.monotonic``).
    """

    def __init__(
        self,
        worker_specs: Sequence[WorkerSpec],
        limits: Limits,
        pool: Allocator,
        start: Callable[[WorkerSpec], Worker],
        wake: Callable[[], None],
    ) -> None:
        """Keep seats; nothing is started.

        Args:
            worker_specs: what runs in each.
            limits: the times and numbers to keep.
            pool: the shared memory of the calls.
            start: starts a worker, and has it heard; called in the supervisor's thread.
            wake: has the supervisor's thread call :meth:`bury` and :meth:`keep_time`.
        """
        self.seats = [WorkerSlot(post) for post in worker_specs]
        self.descriptions: dict[str, Any] = {}
        self.built = threading.Event()
        self.error: WorkerError | None = None
        self.exited: deque[Worker] = deque()
        self.closing: Shutdown | None = None
        self.is_torn = False
        self.is_closing = False
        self.wake_at_s = float("inf")
        self._look_every_s = min(_LOOK_S, limits.predict_timeout_s)
        self._limits = limits
        self._start = start
        self._wake = wake
        self._scheduler = Scheduler(pool, predict_timeout_s=limits.predict_timeout_s, max_retries=limits.max_retries)
        self._seat_of: dict[int, WorkerSlot] = {}
        self._building: set[Worker] = set()
        self._heard: Worker | None = None

    @property
    def workers(self) -> list[Worker]:
        """Those that run, or are about to end."""
        return [seat.worker for seat in self.seats if seat.worker is not None]

    @property
    def over(self) -> list[Call]:
        """Calls whose callers are to be told, once the lock is released."""
        return self._scheduler.over

    @property
    def is_gone(self) -> bool:
        """Whether the closing is over."""
        return self.closing is not None and (self.closing.has_given_up or not self.workers)

    # ---- work

    def put(self, task: Task) -> None:
        """Take a task, and send it if a worker has room."""
        try:
            if self.is_torn:
                self.mend()
            self._scheduler.put(task)
            if task.call.timeout_s is not None and task.call.timeout_s < self._look_every_s:
                self._look_every_s = task.call.timeout_s
                self._wake()
        except BaseException as error:
            self._note_tear(error)
            raise

    def fail(self, call: Call, error: Exception) -> None:
        """Give a call up."""
        self._scheduler.fail(call, error)

    def fail_all(self, error: Exception) -> None:
        """Give all open calls up."""
        for call in list(self._scheduler.open_calls):
            self._scheduler.fail(call, error)

    def start_all(self) -> None:
        """Start all workers at the same time."""
        for seat in self.seats:
            self._start_worker(seat)

    def _start_worker(self, seat: WorkerSlot) -> None:
        seat.restart_at_s = float("inf")
        try:
            worker = self._start(seat.post)
        except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
            text = f"the worker of {seat.post.label} could not be started: {error}"
            self._lose(seat, WorkerError(text, device=seat.post.device))
            return
        seat.worker = worker
        self._building.add(worker)
        worker.deadline_s = time.monotonic() + self._limits.build_timeout_s
        self.wake_at_s = min(self.wake_at_s, worker.deadline_s)
        self._seat_of[worker.fd] = seat

    # ---- what workers say

    def has_to_hear(self) -> bool:
        """Whether anything is to be heard that nobody will come for."""
        return self._scheduler.has_to_hear or bool(self._building)

    def hear_for(self, call: Call) -> None:
        """Note that nobody will come for a call's answers."""
        self._scheduler.hear_for(call)

    def hear(self, fd: int) -> None:
        """Act on what came through a pipe."""
        try:
            if self.is_torn:
                self.mend()
            seat = self._seat_of.get(fd)
            if seat is not None and seat.worker is not None:
                self._heard = seat.worker
                self._hear_worker(seat, seat.worker)
        except BaseException as error:
            self._note_tear(error)
            raise

    def _hear_worker(self, seat: WorkerSlot, worker: Worker) -> None:
        try:
            messages = worker.receive()
        except (EOFError, OSError):  # whoever hangs up is of no use any more; why it did, its end will tell
            worker.hang_up()
            worker.is_ready = False
            worker.deadline_s = time.monotonic() + _HANG_UP_GRACE_S
            self._scheduler.update(worker)
            self.wake_at_s = min(self.wake_at_s, worker.deadline_s)
            self._wake()
            return
        except Exception as error:  # whatever pickle makes of it
            worker.hang_up()
            text = f"the worker of {seat.post.label} sent what is no message ({error}) and was killed; does its model "
            text += "write to descriptors that are not its own?"
            self._kill(worker, WorkerError(text, device=seat.post.device))
            return
        for message in messages:
            self._take(seat, worker, message)

    def _take(self, seat: WorkerSlot, worker: Worker, message: Any) -> None:
        """Act on one message."""
        if message[0] == REPLY:
            self._take_reply(seat, worker, *message[1:])
        elif message[0] == BUILD_FINISH:
            self._take_build(worker, message[1])
        elif message[0] == ERROR and message[1] is None:
            self._kill(worker, engine_error(seat.post, "building", *message[2:]))
        elif message[0] == ERROR:
            self._scheduler.refuse(worker, message[1], engine_error(seat.post, "predicting", *message[2:]))
        self._scheduler.dispatch()

    def _take_build(self, worker: Worker, descriptions: dict[str, Any]) -> None:
        worker.is_ready = True
        worker.deadline_s = float("inf")
        self._wake()  # the next to be watched are predicts, whose time may be much shorter than a build's
        self._building.discard(worker)
        self._scheduler.update(worker)
        self.descriptions = self.descriptions or descriptions
        if all(seat.worker is not None and seat.worker.is_ready for seat in self.seats):
            self.built.set()

    def _take_reply(
        self, seat: WorkerSlot, worker: Worker, number: int, outputs: Any, started_ns: int, finished_ns: int
    ) -> None:
        arrays = None
        if outputs is not None:
            try:
                arrays = worker.open_outputs(outputs)
            except (EOFError, OSError) as error:  # the task is sent elsewhere
                text = f"the outputs of the worker of {seat.post.label} could not be received ({error}) and it was "
                text += "killed; has this process used up its descriptors (ulimit -n)?"
                self._kill(worker, WorkerError(text, device=seat.post.device))
                return
        call = worker.owed[number].call
        if call.is_recorded:
            call.note_answer(worker.owed[number], seat.post.label, started_ns, finished_ns)
        busy_ns = finished_ns - started_ns
        task = self._scheduler.finish(worker, number, arrays, busy_ns / 1e9)
        seat.count(task.rows, busy_ns)

    # ---- when things go wrong

    def _note_tear(self, error: BaseException) -> None:
        """Note that a Ctrl-C (or a fault of ours) may have torn the books in the middle of an entry."""
        if not isinstance(error, AscendParallelError):
            self.is_torn = True
            self._wake()

    def mend(self) -> None:
        """Start from a clean page where the books are torn: no call of which an answer may be lost stays open."""
        error = WorkerError("the call was given up: an interrupt hit the runner while it read an answer; call again")
        self.fail_all(error)
        for worker in self.workers:
            if worker.is_ready or worker is self._heard:
                worker.hang_up()  # what it says may be half read
                worker.is_to_blame = False
                self._kill(worker, error)
        self.is_torn = False

    def _kill(self, worker: Worker, failure: WorkerError | None) -> None:
        worker.kill(failure)
        self._scheduler.update(worker)

    def bury(self) -> None:
        """Take leave of the workers whose processes have ended, and send their tasks elsewhere."""
        while self.exited:
            worker = self.exited.popleft()
            seat = self._seat_of.pop(worker.fd)
            with contextlib.suppress(EOFError, OSError):
                while messages := worker.receive():  # answers that it sent before its end count
                    for message in messages:
                        self._take(seat, worker, message)
            if worker.failure is None:
                worker.output.ended.wait(_TAIL_GRACE_S)
            failure = worker.failure or self._death(seat.post, worker)
            self._building.discard(worker)
            worker.is_ready = False
            if worker.owed and not self._limits.blames_device:
                worker.is_to_blame = False
            self._scheduler.update(worker)
            worker.close()
            seat.worker = None
            self._scheduler.reassign(worker, failure)
            if not self.is_closing:
                self._lose(seat, failure, is_to_blame=worker.is_to_blame)
                self._scheduler.dispatch()

    def _death(self, post: WorkerSpec, worker: Worker) -> WorkerDied:
        doing = (
            "during a predict" if worker.owed else "while building" if worker in self._building else "while it was idle"
        )
        code = worker.exit_code
        text = f"the worker of {post.label} died {doing} ({exit_reason(code)})"
        tail = list(worker.output.tail)
        said = "\n".join(tail)
        if worker in self._building and code is not None and code >= 0:
            text += explain_start(post.python, said)
        return WorkerDied(text + quote(tail) + explain(said), device=post.device, exit_code=code)

    def _lose(self, seat: WorkerSlot, failure: WorkerError, *, is_to_blame: bool = True) -> None:
        """Plan for a seat whose worker is gone: build again, unless the first build failed or it fails too often."""
        if not self.built.is_set():
            self.error = self.error or failure
            self.built.set()
            return
        if not is_to_blame:
            seat.restart_now(time.monotonic())
            self.wake_at_s = seat.restart_at_s
        elif seat.plan_restart(time.monotonic(), self._limits.max_restarts):
            self.wake_at_s = min(self.wake_at_s, seat.restart_at_s)
        elif all(seat.is_out for seat in self.seats):
            self.error = no_device_left(failure)
            self.fail_all(self.error)

    def keep_time(self) -> None:
        """Do what is due; callers start clocks without waking this thread, so it looks at least so often."""
        now_s = time.monotonic()
        if now_s < self.wake_at_s:
            self.wake_at_s = min(self.wake_at_s, now_s + self._look_every_s)
            return
        for seat in self.seats:
            if seat.worker is not None:
                self._check_in_time(seat.post, seat.worker, now_s)
            elif seat.restart_at_s <= now_s and self.closing is None:
                self._start_worker(seat)
        if self.closing is not None and self.closing.due_s <= now_s:
            self.closing.advance(self.workers)
        self.wake_at_s = min([now_s + self._look_every_s, *self._due_times()])

    def _check_in_time(self, post: WorkerSpec, worker: Worker, now_s: float) -> None:
        """Kill a worker that is overdue."""
        if worker.deadline_s <= now_s and worker.has_hung_up:
            self._kill(worker, self._death(post, worker))
        elif worker.deadline_s <= now_s:
            limit_s = self._limits.build_timeout_s
            text = f"the worker of {post.label} did not build its model in {limit_s:g} s and was killed; if it needs "
            text += "longer, raise build_timeout_s"
            self._kill(worker, WorkerTimeout(text + quote(list(worker.output.tail)), device=post.device))
        elif worker.is_ready and self._scheduler.is_overdue(worker, now_s):
            limit_s = self._scheduler.limit_s(worker, now_s)
            text = f"the worker of {post.label} did not answer in {limit_s:g} s and was killed; if a predict may take "
            error = WorkerTimeout(text + "longer, raise predict_timeout_s", device=post.device)
            self._scheduler.time_out(worker, error)
            self._kill(worker, error)

    def _due_times(self) -> Iterator[float]:
        for seat in self.seats:
            yield seat.restart_at_s
            if seat.worker is not None:
                yield seat.worker.deadline_s
                if seat.worker.is_ready:
                    yield self._scheduler.due_s(seat.worker)
        if self.closing is not None:
            yield self.closing.due_s

    # ---- the end

    def begin_to_close(self) -> None:
        """Have all workers end; open calls fail."""
        workers = self.workers
        self.closing = Shutdown(workers)
        self.wake_at_s = min(self.wake_at_s, self.closing.due_s)
        self.fail_all(RunnerClosedError("the runner was closed while this call was under way"))
