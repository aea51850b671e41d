"""Keeps the workers of one runner running: starts them, acts on what they say, replaces those that die.

Three kinds of threads meet here, under one lock. Callers write inputs and send tasks. Whoever listens (see
listener.py) hands over what workers say. And the supervisor's own thread, whose whole story is
:meth:`Supervisor._run`, starts workers, keeps the time, and takes leave of the dead; it sleeps otherwise.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ascend_parallel.errors import (
    AscendParallelError,
    RunnerClosedError,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
)
from ascend_parallel.worker.protocol import BUILD_FINISH, ERROR, REPLY

from .call import Call, Task
from .causes import cause_of_death, engine_error, explain, explain_start, no_device_left, quote
from .closing import Closing
from .listener import Listener
from .logs import LogPump
from .pool import BlockPool
from .scheduler import Scheduler
from .seat import Limits, Seat
from .worker import Post, Worker

#: How long the last lines of a dead worker may take to arrive.
_TAIL_GRACE_S = 0.5
#: How long the last lines of all workers may, when the runner closes.
_LOGS_GRACE_S = 1.0
#: How long a worker may live on after it has closed its pipe: an exit is seen within milliseconds.
_HANG_UP_GRACE_S = 1.0
#: No close takes longer than this: the stages of closing.py, and the logs.
_CLOSE_S = 20.0
#: Nobody holds the lock for longer, but a thread whose signal's handler is now closing the runner.
_LOCK_S = 1.0


class Supervisor:
    """Owns the workers of one runner.

    Attributes:
        seats: one for each worker wanted.
        descriptions: what a worker told of the models; set when :meth:`start` has returned.
    """

    def __init__(self, posts: Sequence[Post], limits: Limits, pool: BlockPool) -> None:
        self.seats = [Seat(post) for post in posts]
        self.descriptions: dict[str, Any] = {}
        self._limits = limits
        self._scheduler = Scheduler(pool, predict_timeout_s=limits.predict_timeout_s, max_retries=limits.max_retries)
        self._lock = threading.Lock()
        self._listener = Listener(self._lock, self._hear, self._has_to_hear)
        self._logs = LogPump()
        self._seat_of: dict[int, Seat] = {}
        self._building: set[Worker] = set()
        self._exited: deque[Worker] = deque()
        self._built = threading.Event()
        self._error: WorkerError | None = None
        self._close_wanted = False
        self._closing: Closing | None = None
        self._is_torn = False
        self._heard: Worker | None = None
        self._wake = threading.Event()
        self._wake_at_s = float("inf")
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="ascend-parallel", daemon=True)

    # ---- for all threads

    def start(self) -> None:
        """Build all workers at the same time; raise the first failure, for the caller to close the others."""
        self._thread.start()
        self._built.wait()
        if self._error is not None:
            raise self._error

    def send(self, call: Call, tasks: Iterable[Task]) -> None:
        """Take a call and its tasks, each sent at once or as soon as a worker has room."""
        try:
            for task in tasks:
                with self._lock:
                    self.check_open()
                    if call.error is not None:
                        break
                    self._put(task)
        except BaseException:
            self.abandon(call)
            raise

    def wait(self, call: Call, told: threading.Lock) -> None:
        """Return when a call is over; ``told`` is a lock that its ``tell`` releases."""
        if not self._listener.listen_until(lambda: not call.is_open):
            told.acquire()

    def listen_for(self, call: Call) -> None:
        """Have a call's answers heard though nobody waits for it."""
        with self._lock:
            if call.is_open:
                self._listener.want()

    def abandon(self, call: Call) -> None:
        """Give a call up: what of it waits is not sent any more, and answers to the rest are dropped."""
        self._listener.leave()
        with self._lock:
            self._scheduler.fail(call, RunnerClosedError("the call was abandoned"))
            if self._has_to_hear():
                self._listener.want()

    def check_open(self) -> None:
        """Raise RunnerClosedError, or what the last device failed with."""
        if self._pid != os.getpid():
            raise RunnerClosedError("this runner was built in another process; build one after the fork")
        if self._close_wanted:
            raise RunnerClosedError("the runner is closed; build a new one")
        if self._error is not None:
            raise copy.copy(self._error)  # one instance would collect the tracebacks of all who get it

    def is_busy_thread(self) -> bool:
        """Whether the caller is a future's callback, in the very thread that would have to hear the answer."""
        return threading.get_ident() in (self._thread.ident, self._listener.background)

    def close(self) -> None:
        """End all workers (see closing.py); open calls fail. Does nothing in a forked child."""
        if self._pid != os.getpid():
            return
        self._close_wanted = True
        self._wake.set()
        if self._thread.is_alive() and not self._is_in_the_way():
            self._thread.join(_CLOSE_S)

    def _is_in_the_way(self) -> bool:
        """Whether closing can only go on when the caller returns: it is a callback, or the handler of a signal.

        A handler may have interrupted its own thread in the middle of an entry in the books.
        """
        if self.is_busy_thread() or self._listener.owner == threading.get_ident():
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
                self._error = self._error or WorkerError(f"the runner broke down ({error!r}); build a new one")
                self._built.set()
                for call in list(self._scheduler.open_calls):
                    self._scheduler.fail(call, self._error)
            self._tell()
            raise

    def _supervise(self) -> None:
        with self._lock:
            for seat in self.seats:
                self._start_worker(seat)
        while not self._is_over():
            self._wake.wait(self._sleep_s())
            self._wake.clear()
            with self._lock:
                if self._is_torn:
                    self._mend()
                self._bury()
                self._keep_time()
                if self._close_wanted and self._closing is None:
                    self._begin_to_close()
            self._tell()
        self._leave()

    def _is_over(self) -> bool:
        return self._closing is not None and (self._closing.has_given_up or not self._workers())

    def _workers(self) -> list[Worker]:
        return [seat.worker for seat in self.seats if seat.worker is not None]

    def _sleep_s(self) -> float | None:
        if self._wake_at_s == float("inf"):
            return None
        return max(0.0, self._wake_at_s - time.monotonic())

    def _tell(self) -> None:
        """Tell the callers whose calls are over; without the lock, as this runs callbacks of theirs.

        Callbacks run in threads of ours alone: nobody's predict has to wait for them, and no Ctrl-C hits them.
        """
        if not self._scheduler.over:
            return
        over: list[Call] = []
        try:
            with self._lock:
                self._listener.nudge()
                over, self._scheduler.over = self._scheduler.over, []
            is_ours = self.is_busy_thread()
            while over:
                if over[-1].has_callbacks and not is_ours:
                    break
                over[-1].tell()
                over.pop()
        finally:
            if over:  # for our own thread to tell; or a Ctrl-C, and then the last may be told twice
                with self._lock:
                    self._scheduler.over += over
                self._wake.set()

    def _start_worker(self, seat: Seat) -> None:
        seat.restart_at_s = float("inf")
        try:
            worker = Worker(seat.post, self._listener.epoll, self._logs, self._note_exit)
        except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
            text = f"the worker of {seat.post.label} could not be started: {error}"
            self._lose(seat, WorkerError(text, device=seat.post.device))
            return
        seat.worker = worker
        self._building.add(worker)
        worker.deadline_s = time.monotonic() + self._limits.build_timeout_s
        self._wake_at_s = min(self._wake_at_s, worker.deadline_s)
        self._seat_of[worker.fd] = seat
        self._listener.want()

    def _note_exit(self, worker: Worker) -> None:
        """Called in the thread that waited for the process."""
        self._exited.append(worker)
        self._wake.set()

    # ---- what workers say

    def _has_to_hear(self) -> bool:
        """Whether anything is owed; a call that was given up too, else its worker would be taken for hung."""
        if self._scheduler.open_calls or self._building:
            return True
        return any(seat.worker is not None and seat.worker.owed for seat in self.seats)

    def _hear(self, fd: int) -> None:
        """Act on what came through a pipe; called by the thread that listens."""
        with self._lock:
            try:
                if self._is_torn:
                    self._mend()
                seat = self._seat_of.get(fd)
                if seat is not None and seat.worker is not None:
                    self._heard = seat.worker
                    self._hear_worker(seat, seat.worker)
            except BaseException as error:
                self._note_tear(error)
                raise
        self._tell()

    def _put(self, task: Task) -> None:
        """Take a task; the lock is held."""
        try:
            if self._is_torn:
                self._mend()
            self._scheduler.put(task)
        except BaseException as error:
            self._note_tear(error)
            raise

    def _hear_worker(self, seat: Seat, worker: Worker) -> None:
        try:
            messages = worker.receive()
        except (EOFError, OSError):  # whoever hangs up is of no use any more; why it did, its end will tell
            worker.hang_up()
            worker.is_ready = False
            worker.deadline_s = time.monotonic() + _HANG_UP_GRACE_S
            self._scheduler.update(worker)
            self._wake_at_s = min(self._wake_at_s, worker.deadline_s)
            self._wake.set()
            return
        for message in messages:
            self._take(seat, worker, message)

    def _take(self, seat: Seat, worker: Worker, message: Any) -> None:
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
        self._wake.set()  # the next to be watched are predicts, whose time may be much shorter than a build's
        self._building.discard(worker)
        self._scheduler.update(worker)
        self.descriptions = self.descriptions or descriptions
        if all(seat.worker is not None and seat.worker.is_ready for seat in self.seats):
            self._built.set()

    def _take_reply(
        self, seat: Seat, worker: Worker, number: int, outputs: Any, started_ns: int, finished_ns: int
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
        busy_ns = finished_ns - started_ns
        task = self._scheduler.finish(worker, number, arrays, busy_ns / 1e9)
        seat.count(task.rows, busy_ns)

    # ---- when things go wrong

    def _note_tear(self, error: BaseException) -> None:
        """Note that a Ctrl-C (or a fault of ours) may have torn the books in the middle of an entry."""
        if not isinstance(error, AscendParallelError):
            self._is_torn = True
            self._wake.set()

    def _mend(self) -> None:
        """Start from a clean page where the books are torn: no call of which an answer may be lost stays open."""
        error = WorkerError("the call was given up: an interrupt hit the runner while it read an answer; call again")
        for call in list(self._scheduler.open_calls):
            self._scheduler.fail(call, error)
        for worker in self._workers():
            if worker.is_ready or worker is self._heard:
                worker.hang_up()  # what it says may be half read
                worker.is_to_blame = False
                self._kill(worker, error)
        self._is_torn = False

    def _kill(self, worker: Worker, failure: WorkerError | None) -> None:
        worker.kill(failure)
        self._scheduler.update(worker)

    def _bury(self) -> None:
        """Take leave of the workers whose processes have ended, and send their tasks elsewhere."""
        while self._exited:
            worker = self._exited.popleft()
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
            self._scheduler.update(worker)
            worker.close()
            seat.worker = None
            self._scheduler.reassign(worker, failure)
            if not self._close_wanted:
                self._lose(seat, failure, is_to_blame=worker.is_to_blame)
                self._scheduler.dispatch()

    def _death(self, post: Post, worker: Worker) -> WorkerDied:
        doing = (
            "during a predict" if worker.owed else "while building" if worker in self._building else "while it was idle"
        )
        code = worker.exit_code
        text = f"the worker of {post.label} died {doing} ({cause_of_death(code)})"
        tail = list(worker.output.tail)
        said = "\n".join(tail)
        if worker in self._building and code is not None and code >= 0:
            text += explain_start(post.python, said)
        return WorkerDied(text + quote(tail) + explain(said), device=post.device, exit_code=code)

    def _lose(self, seat: Seat, failure: WorkerError, *, is_to_blame: bool = True) -> None:
        """Plan for a seat whose worker is gone: build again, unless the first build failed or it fails too often."""
        if not self._built.is_set():
            self._error = self._error or failure
            self._built.set()
            return
        if not is_to_blame:
            seat.restart_now(time.monotonic())
            self._wake_at_s = seat.restart_at_s
        elif seat.plan_restart(time.monotonic(), self._limits.max_restarts):
            self._wake_at_s = min(self._wake_at_s, seat.restart_at_s)
        elif all(seat.is_out for seat in self.seats):
            self._error = no_device_left(failure)
            for call in list(self._scheduler.open_calls):
                self._scheduler.fail(call, self._error)

    def _keep_time(self) -> None:
        """Do what is due; callers start clocks without waking this thread, so it looks at least so often."""
        now_s = time.monotonic()
        if now_s < self._wake_at_s:
            self._wake_at_s = min(self._wake_at_s, now_s + self._limits.predict_timeout_s)
            return
        for seat in self.seats:
            if seat.worker is not None:
                self._check_in_time(seat.post, seat.worker, now_s)
            elif seat.restart_at_s <= now_s and self._closing is None:
                self._start_worker(seat)
        if self._closing is not None and self._closing.due_s <= now_s:
            self._closing.advance(self._workers())
        self._wake_at_s = min([now_s + self._limits.predict_timeout_s, *self._due_times()])

    def _check_in_time(self, post: Post, worker: Worker, now_s: float) -> None:
        """Kill a worker that is overdue."""
        if worker.deadline_s <= now_s and worker.has_hung_up:
            self._kill(worker, self._death(post, worker))
        elif worker.deadline_s <= now_s:
            limit_s = self._limits.build_timeout_s
            text = f"the worker of {post.label} did not build its model in {limit_s:g} s and was killed; if it needs "
            text += "longer, raise build_timeout_s"
            self._kill(worker, WorkerTimeout(text + quote(list(worker.output.tail)), device=post.device))
        elif worker.is_ready and self._scheduler.is_overdue(worker, now_s):
            limit_s = self._limits.predict_timeout_s
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
        if self._closing is not None:
            yield self._closing.due_s

    # ---- the end

    def _begin_to_close(self) -> None:
        workers = self._workers()
        self._closing = Closing(workers)
        self._wake_at_s = min(self._wake_at_s, self._closing.due_s)
        for call in list(self._scheduler.open_calls):
            self._scheduler.fail(call, RunnerClosedError("the runner was closed while this call was under way"))

    def _leave(self) -> None:
        for worker in self._workers():  # stuck in a driver, past SIGKILL
            worker.close()
        self._listener.close()
        self._logs.close(_LOGS_GRACE_S)
