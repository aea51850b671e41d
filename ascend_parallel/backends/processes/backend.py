"""The threads of a runner, and the one lock under which they meet.

Callers write inputs and send tasks. Whoever listens (see leader.py) hands over what workers say. And the supervisor's
own thread, see :meth:`ProcessBackend._supervise`, starts workers, keeps the time, and takes leave of the
dead; it sleeps otherwise. What they do is in worker_pool.py; this is who does it, and when.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ascend_parallel.backends.call import Call, Task
from ascend_parallel.errors import RunnerClosedError, WorkerError

from .allocator import Allocator
from .leader import SIGNAL_LATENCY_S, LeaderFollowers, report_exception
from .log_pump import LogPump
from .worker_pool import WorkerPool
from .worker_process import Worker, WorkerSpec
from .worker_slot import Limits, WorkerSlot

#: How long the last lines of all workers may take to arrive when the runner closes.
_LOGS_GRACE_S = 1.0
#: No close takes longer than this: the stages of shutdown.py, and the logs.
_CLOSE_S = 20.0
#: How long a caller may go on writing inputs before it looks for answers: much less than a task takes, as a worker has
#: but one more in its queue; and much more than a look.
_GLANCE_S = 1e-3
#: Nobody holds the lock for longer, but a thread whose signal's handler is now closing the runner.
_LOCK_S = 1.0


class ProcessBackend:
    """Keeps the workers of one runner running."""

    def __init__(self, worker_specs: Sequence[WorkerSpec], limits: Limits, pool: Allocator) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._crew = WorkerPool(worker_specs, limits, pool, self._start_worker, self._wake.set)
        self._listener = LeaderFollowers(self._lock, self._hear, self._crew.has_to_hear)
        self._logs = LogPump()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="ascend-parallel", daemon=True)

    @property
    def seats(self) -> list[WorkerSlot]:
        """One for each worker wanted."""
        return self._crew.seats

    @property
    def descriptions(self) -> dict[str, Any]:
        """What a worker told of the models; there when :meth:`start` has returned."""
        return self._crew.descriptions

    # ---- for all threads

    def start(self) -> None:
        """Build all workers at the same time; raise the first failure, for the caller to close the others."""
        self._thread.start()
        while not self._crew.built.wait(SIGNAL_LATENCY_S):
            pass
        if self._crew.error is not None:
            raise self._crew.error

    def send(self, call: Call, tasks: Iterable[Task]) -> None:
        """Take a call and its tasks, each sent at once or as soon as a worker has room.

        To write the rows of a long call takes a while, in which workers answer and want their next tasks.
        """
        heard_s = time.monotonic()
        try:
            for task in tasks:
                with self._lock:
                    self.check_open()
                    if call.error is not None:
                        break
                    self._crew.put(task)
                now_s = time.monotonic()
                if now_s - heard_s > _GLANCE_S and not self.is_busy_thread():
                    self.catch_up()
                    heard_s = time.monotonic()
        except BaseException:
            self.abandon(call)
            raise

    def wait(self, call: Call, told: threading.Lock) -> Any:
        """Wait for a call and return its outputs, or raise its error; ``told`` is a lock that its ``tell`` releases."""
        self._check_own()
        try:
            if not self._listener.listen_until(lambda: not call.is_open):
                self.listen_for(call)
                while not told.acquire(timeout=SIGNAL_LATENCY_S):
                    pass
        except BaseException:  # Ctrl-C
            self.abandon(call)
            raise
        return call.outputs()

    def listen_for(self, call: Call) -> None:
        """Have a call's answers heard though nobody comes for them, or whoever came cannot listen."""
        with self._lock:
            self._crew.hear_for(call)
            self._want()

    def look_after(self) -> None:
        """Have the tasks that wait sent in time, while whoever comes for their answers is about something else."""
        if self._crew.has_to_hear():
            with self._lock:
                self._want()

    def catch_up(self) -> None:
        """Hear what workers have said already, and nobody came for yet."""
        try:
            self._listener.glance()
        except BaseException:  # Ctrl-C
            self._listener.leave()
            with self._lock:
                self._want()
            raise

    def abandon(self, call: Call) -> None:
        """Give a call up: what of it waits is not sent any more, and answers to the rest are dropped."""
        self._listener.leave()
        with self._lock:
            self._crew.fail(call, RunnerClosedError("the call was abandoned"))
            self._want()

    def _want(self) -> None:
        if self._crew.has_to_hear():
            self._listener.want()

    def check_open(self) -> None:
        """Raise RunnerClosedError, or what the last device failed with."""
        self._check_own()
        if self._crew.is_closing:
            raise RunnerClosedError("the runner is closed; build a new one")
        if self._crew.error is not None:
            raise copy.copy(self._crew.error)  # one instance would collect the tracebacks of all who get it

    def _check_own(self) -> None:
        if self._pid != os.getpid():
            raise RunnerClosedError("this runner was built in another process; build one after the fork")

    def is_listening(self) -> bool:
        """Whether the caller is the handler of a signal, in the very thread that would have to hear the answer."""
        return self._listener.owner == threading.get_ident()

    def is_busy_thread(self) -> bool:
        """Whether the caller is a future's callback, in the very thread that would have to hear the answer."""
        return threading.get_ident() in (self._thread.ident, self._listener.background)

    def close(self) -> None:
        """End all workers (see shutdown.py); open calls fail. Does nothing in a forked child."""
        if self._pid != os.getpid():
            return
        self._crew.is_closing = True
        self._wake.set()
        if self._thread.is_alive() and not self._is_in_the_way():
            self._thread.join(_CLOSE_S)

    def _is_in_the_way(self) -> bool:
        """Whether closing can only go on when the caller returns: it is a callback, or the handler of a signal.

        A handler may have interrupted its own thread in the middle of an entry in the books.
        """
        if self.is_busy_thread() or self.is_listening():
            return True
        is_free = self._lock.acquire(timeout=_LOCK_S)
        if is_free:
            self._lock.release()
        return not is_free

    @property
    def is_own(self) -> bool:
        """Whether this is the process that built the workers, and not a fork of it."""
        return self._pid == os.getpid()

    # ---- for the supervisor's own thread

    def _run(self) -> None:
        try:
            self._supervise()
        except BaseException as error:  # a fault of ours: no caller must wait for ever
            with self._lock:
                self._crew.error = self._crew.error or WorkerError(
                    f"the runner broke down ({error!r}); build a new one"
                )
                self._crew.built.set()
                self._crew.fail_all(self._crew.error)
            self._tell()
            raise

    def _supervise(self) -> None:
        with self._lock:
            self._crew.start_all()
        while not self._crew.is_gone:
            self._wake.wait(self._sleep_s())
            self._wake.clear()
            self._catch_up_or_report()  # who has answered, though nobody came to hear it, is not overdue
            with self._lock:
                if self._crew.is_torn:
                    self._crew.mend()
                self._crew.bury()
                self._crew.keep_time()
                self._want()
                if self._crew.is_closing and self._crew.closing is None:
                    self._crew.begin_to_close()
            self._tell()
        self._leave()

    def _catch_up_or_report(self) -> None:
        try:
            self.catch_up()
        except Exception:  # a fault of ours: the books are torn, and about to be mended
            report_exception()

    def _sleep_s(self) -> float | None:
        if self._crew.wake_at_s == float("inf"):
            return None
        return max(0.0, self._crew.wake_at_s - time.monotonic())

    def _tell(self) -> None:
        """Tell the callers whose calls are over; without the lock, as this runs callbacks of theirs.

        Callbacks run in threads of ours alone: nobody's predict has to wait for them, and no Ctrl-C hits them.
        """
        if not self._crew.over:
            return
        over: list[Call] = []
        try:
            with self._lock:
                self._listener.nudge()
                over.extend(self._crew.over)  # never in neither list: an interrupt would lose them
                self._crew.over.clear()
            is_ours = self.is_busy_thread()
            while over:
                if over[-1].has_callbacks and not is_ours:
                    break
                over[-1].tell()
                over.pop()
        finally:
            if over:  # for our own thread to tell; or a Ctrl-C, and then the last may be told twice
                with self._lock:
                    self._crew.over.extend(over)
                self._wake.set()

    def _start_worker(self, post: WorkerSpec) -> Worker:
        worker = Worker(post, self._listener.epoll, self._logs, self._note_exit)
        self._listener.want()
        return worker

    def _note_exit(self, worker: Worker) -> None:
        """Called in the thread that waited for the process."""
        self._crew.exited.append(worker)
        self._wake.set()

    def _hear(self, fd: int) -> None:
        """Act on what came through a pipe; called by the thread that listens."""
        with self._lock:
            self._crew.hear(fd)
        self._tell()

    def _leave(self) -> None:
        for worker in self._crew.workers:  # stuck in a driver, past SIGKILL
            worker.close()
        self._listener.close()
        self._logs.close(_LOGS_GRACE_S)
