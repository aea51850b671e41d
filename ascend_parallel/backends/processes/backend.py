"""The process backend: its threads, and the one lock under which they meet.

The page docs/concurrency.md names the threads, the locks, and who may hold which. In short:

- Callers write inputs, and send tasks under the lock.
- The leader, one thread at a time, polls the pipes (``leader_followers.py``) and acts on replies under the lock.
- The supervisor's thread, whose loop is :meth:`ProcessBackend._supervise`, starts workers, checks deadlines and reaps
  dead workers.
- Callers are notified without the lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ascend_parallel.backends.allocator import Allocator
from ascend_parallel.backends.backend import AHEAD_S, Backend
from ascend_parallel.backends.call import Call, Task
from ascend_parallel.backends.event_loop import EventLoop
from ascend_parallel.backends.unhandled import report_exception
from ascend_parallel.backends.worker_spec import Limits, WorkerSpec
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.plan import Plan
from ascend_parallel.errors import RunnerClosedError, UsageError, WorkerError
from ascend_parallel.waiting import SIGNAL_LATENCY_S

from .leader_followers import LeaderFollowers
from .log_pump import LogPump
from .placement import RowsPlacement, SharedPlacement
from .start import StartedAhead
from .worker_pool import WorkerPool
from .worker_process import Worker

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

#: How long the last lines of all workers may take to arrive when the backend closes.
_LOGS_GRACE_S = 1.0
#: No close takes longer than this: the stages of shutdown.py, and the logs.
_CLOSE_S = 20.0
#: How long a caller may go on writing inputs before it polls for replies: much less than a task takes, as a worker has
#: but one more in its queue; and much more than a poll.
_POLL_S = 1e-3
#: Nobody holds the lock for longer, but a thread whose signal's handler is now closing the backend.
_LOCK_S = 1.0
#: A call of so few bytes and tasks is written as a whole before its tasks are sent together; of others, each task is
#: sent as soon as its rows are written.
_SMALL_CALL_BYTES = 1 << 16
_SMALL_CALL_TASKS = 8


class ProcessBackend(Backend):
    """Runs tasks in worker processes, and keeps the workers running."""

    def __init__(self, specs: Sequence[WorkerSpec], limits: Limits, started_ahead: StartedAhead | None = None) -> None:
        super().__init__()
        self._started_ahead = started_ahead
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._allocator = Allocator()
        self._pool = WorkerPool(specs, limits, self._allocator, self._state, self._start_worker, self._wake.set)
        self._completed = self._pool.scheduler.completed
        self._leader = LeaderFollowers(self._lock, self._receive, self._has_unattended)
        self._logs = LogPump()
        self._thread = threading.Thread(target=self._run, name="ascend-parallel", daemon=True)
        self._supervisor: int | None = None  # its ident, which Thread.ident gives at the cost of a call

    # ---- for all threads

    def start(self) -> None:
        """Build all workers at the same time; raise the first failure, for the caller to close the others."""
        self._thread.start()
        while not self._pool.built.wait(SIGNAL_LATENCY_S):
            if not self._thread.is_alive():
                raise RunnerClosedError("the runner was closed while it was being built")
        if self._state.error is not None:
            raise self._state.error
        self.descriptions = self._pool.descriptions

    def place(self, plan: Plan, arrays: Sequence[Array], *, in_place: bool) -> SharedPlacement:
        """Take blocks of shared memory."""
        return SharedPlacement(plan, arrays, self._allocator, in_place=in_place)

    def place_rows(self, plan: Plan) -> tuple[RowsPlacement, list[Array]]:
        """Take blocks of shared memory, and show where the inputs go."""
        placement = RowsPlacement(plan, self._allocator)
        return placement, placement.targets()

    def enqueue(self, call: Call) -> None:
        """Write inputs and send tasks: each at once, or as soon as a worker has room."""
        try:
            plan = call.plan
            if plan.input_bytes <= _SMALL_CALL_BYTES and len(plan.chunks) <= _SMALL_CALL_TASKS:
                self._enqueue_together(call)
            else:
                self._enqueue_in_turn(call)
            call.placement.outputs()  # made now, while the workers compute
            if call.has_callback:
                self._mark_unattended(call)
        except BaseException:
            self.cancel(call)
            raise

    def _enqueue_together(self, call: Call) -> None:
        """Send the tasks of a small call together, once all of its inputs are written."""
        placement = call.placement
        tasks = []
        for index in range(len(call.plan.chunks)):
            placement.write(index)
            if call.is_recorded:
                call.note_written(index)
            tasks.append(Task(call, index))
        with self._lock:
            self.check_open()
            self._pool.enqueue(tasks)

    def _enqueue_in_turn(self, call: Call) -> None:
        """Send each task as soon as its inputs are written.

        Writing the rows of a long call takes a while, in which workers reply and want their next tasks.
        """
        polled_s = time.monotonic()
        for index in range(len(call.plan.chunks)):
            call.placement.write(index)
            call.note_written(index)
            with self._lock:
                self.check_open()
                if call.error is not None:
                    return
                self._pool.enqueue([Task(call, index)])
            if time.monotonic() - polled_s > _POLL_S and not self._is_own_thread():
                self.poll()
                polled_s = time.monotonic()

    def wait(self, call: Call) -> Any:
        """Lead until the call is completed, or wait for the leader to notify."""
        self._check_own()
        try:
            if not self._leader.run_until_done(call):
                self._mark_unattended(call)
                while call.is_open and not call.wait(SIGNAL_LATENCY_S):
                    pass
        except BaseException:  # Ctrl-C
            self.cancel(call)
            raise
        return call.outputs()

    def wait_ahead(self, call: Call) -> None:
        """Lead until the call is completed, if there is no other leader; but not for long."""
        try:
            self._leader.run_until_done(call, time.monotonic() + AHEAD_S)
        except BaseException:  # Ctrl-C
            self.cancel(call)
            raise

    def _mark_unattended(self, call: Call) -> None:
        """Have a call's replies received though no thread waits for them, or the one that waits cannot lead."""
        with self._lock:
            self._pool.scheduler.mark_unattended(call)
            self._request_leader()

    def keep_busy(self) -> None:
        """Have queued tasks sent in time, while the caller is busy elsewhere."""
        if self._has_unattended():
            with self._lock:
                self._request_leader()

    def poll(self) -> None:
        """Act on what workers have sent already, without waiting."""
        try:
            self._leader.poll()
        except BaseException:  # Ctrl-C
            self._leave_to_others()
            raise

    def _poll_for(self, loop: EventLoop) -> None:
        """The same, called by a loop in its thread: the pipes are readable."""
        loop.polling_thread = threading.get_ident()
        try:
            loop.note_poll(self._leader.poll())
        except BaseException:  # Ctrl-C
            self._leave_to_others()
            raise
        finally:
            loop.polling_thread = None

    def _leave_to_others(self) -> None:
        """Step down after an interrupt."""
        self._leader.abdicate()
        with self._lock:
            self._request_leader()

    def cancel(self, call: Call) -> None:
        """Give a call up: its queued tasks are dropped, and so are the replies to those that run."""
        self._leader.abdicate()
        with self._lock:
            self._pool.scheduler.fail(call, RunnerClosedError("the call was abandoned"))
            self._request_leader()

    def _request_leader(self) -> None:
        if self._has_unattended():
            self._leader.request_leader()

    def _has_unattended(self) -> bool:
        """Whether the background thread has to lead; a running event loop polls for all other calls."""
        if self._loops and any(loop.is_running for loop in list(self._loops.values())):
            return self._pool.scheduler.has_unattended_calls()
        return self._pool.has_unattended()

    def _make_event_loop(self, loop: AbstractEventLoop) -> EventLoop:
        attached = EventLoop(loop)
        with self._lock:  # under which the leader begins to close
            self.check_open()
            attached.watch(self._leader.epoll.fileno(), self._poll_for)
        return attached

    def check_may_wait(self, method: str) -> None:
        """Raise UsageError in a future's callback, and in the handler of a signal that hit the leader."""
        if self._is_own_thread():
            raise UsageError(f"{method} was called in a future's callback, where it would wait for itself; use submit")
        if threading.get_ident() == self._leader.leader:
            raise UsageError(
                f"{method} was called in the handler of a signal, and would wait for the call that this hit"
            )

    def _is_own_thread(self) -> bool:
        """Whether the caller is a future's callback, in the very thread that would have to receive the reply."""
        return threading.get_ident() in (self._supervisor, self._leader.background)

    def stats(self) -> dict[str, Any]:
        """Return the figures of each worker, and the shared memory in use."""
        self.poll()
        return {
            "workers": {slot.spec.label: slot.stats() for slot in self._pool.slots},
            "shared_memory": self._allocator.stats(),
        }

    def empty(self, shape: Any, dtype: Any) -> Array:
        """Return an uninitialised array in shared memory; raises UsageError."""
        return self._allocator.empty(shape, dtype)

    def close(self) -> None:
        """End all workers (see shutdown.py); open calls fail. Does nothing in a forked child."""
        if not self.is_own:
            return
        self._state.is_closing = True
        self._wake.set()
        if self._thread.is_alive() and not self._must_not_join():
            self._thread.join(_CLOSE_S)
        self._detach_all()
        self._allocator.close()

    def _must_not_join(self) -> bool:
        """Whether closing can only go on when the caller returns: it is a callback, or the handler of a signal.

        A handler may have interrupted its own thread in the middle of an update.
        """
        if self._is_own_thread() or self._leader.leader == threading.get_ident():
            return True
        is_free = self._lock.acquire(timeout=_LOCK_S)
        if is_free:
            self._lock.release()
        return not is_free

    # ---- the leader

    def _receive(self, events: Sequence[tuple[int, int]]) -> None:
        """Act on what has come through some pipes; called by the leader."""
        with self._lock:
            self._pool.receive(events)
            if len(self._completed) == 1 and self._completed[0].is_led:
                self._completed.clear()  # the leader's own call: it needs no notification
        if self._completed:
            self._notify()

    def _notify(self) -> None:
        """Notify the callers whose calls are completed; without the lock, as this runs callbacks of theirs.

        Callbacks run in threads of ours alone: no predict has to wait for them, and no Ctrl-C hits them.
        """
        completed: list[Call] = []
        try:
            with self._lock:
                self._leader.wake()
                for call in self._completed:
                    if call.loop is not None:  # with the lock, so that loops tell their callers in the workers' order
                        call.loop.put(call)
                completed.extend(reversed(self._completed))  # never in neither list: an interrupt would lose them
                self._completed.clear()
            is_own = None
            while completed:
                if completed[-1].has_callback:
                    is_own = self._is_own_thread() if is_own is None else is_own
                    if not is_own:
                        break
                loop = completed[-1].loop
                if loop is not None:
                    loop.deliver()
                else:
                    completed[-1].notify()
                completed.pop()
        finally:
            if completed:  # for our own thread to notify; or after a Ctrl-C, when the last may be notified twice
                with self._lock:
                    self._completed.extend(reversed(completed))
                self._wake.set()

    # ---- the supervisor's thread

    def _run(self) -> None:
        self._supervisor = threading.get_ident()
        try:
            self._supervise()
        except BaseException as error:  # a fault of ours: no caller must wait for ever
            with self._lock:
                broken = WorkerError(f"the runner broke down ({error!r}); build a new one")
                self._state.error = self._state.error or broken
                self._pool.built.set()
                self._pool.fail_all(self._state.error)
            self._notify()
            raise

    def _supervise(self) -> None:
        with self._lock:
            self._pool.start_all()
        while not self._pool.is_gone:
            self._wake.wait(self._sleep_s())
            self._wake.clear()
            self._poll_or_report()  # a worker whose reply is there, though nobody came for it, is not overdue
            with self._lock:
                if self._pool.is_inconsistent:
                    self._pool.recover()
                self._pool.reap()
                self._pool.check_deadlines()
                self._request_leader()
                if self._state.is_closing and self._pool.shutdown is None:
                    self._pool.begin_shutdown()
            if self._completed:
                self._notify()
            self._tell_changes()
            self._detach_closed()
        self._end()

    def _tell_changes(self) -> None:
        """Tell what has become of workers; without the lock, as this runs code of others."""
        while self._pool.changes:
            change = self._pool.changes.popleft()
            if self.on_worker_change is not None:
                try:
                    self.on_worker_change(change)
                except Exception:  # of theirs
                    report_exception()

    def _sleep_s(self) -> float | None:
        if self._pool.next_deadline_s == float("inf"):
            return None
        return max(0.0, self._pool.next_deadline_s - time.monotonic())

    def _poll_or_report(self) -> None:
        try:
            self.poll()
        except Exception:  # a fault of ours: the state is inconsistent, and about to be recovered
            report_exception()

    def _start_worker(self, spec: WorkerSpec) -> Worker:
        started = self._started_ahead.take(spec) if self._started_ahead is not None else None
        worker = Worker(spec, self._leader.epoll, self._logs, self._note_exit, started)
        self._leader.request_leader()
        return worker

    def _note_exit(self, worker: Worker) -> None:
        """Called in the thread that waited for the process."""
        self._pool.exited.append(worker)
        self._wake.set()

    def _end(self) -> None:
        for worker in self._pool.workers:  # stuck in a driver, past SIGKILL
            worker.close()
        self._leader.close()
        self._logs.close(_LOGS_GRACE_S)
