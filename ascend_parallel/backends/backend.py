"""The backend interface: what the runner, and the rooms above it, see of worker processes and threads."""

from __future__ import annotations

import copy
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.plan import Plan
from ascend_parallel.errors import RunnerClosedError, WorkerError

from .call import Call, Placement
from .event_loop import EventLoop

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

#: How much later than it could be the result of a stream may come, for the sake of those behind it.
AHEAD_S = 1e-3


class State:
    """Why a backend takes no calls, if it takes none; any thread may read it without a lock.

    Attributes:
        is_closing: :meth:`Backend.close` was called.
        error: why the backend is of no use, such as the loss of its last device.
    """

    __slots__ = ("error", "is_closing")

    def __init__(self) -> None:
        self.error: WorkerError | None = None
        self.is_closing = False


class WorkerChange(NamedTuple):
    """A worker process that ended, or the one that took its place.

    Attributes:
        worker: its label.
        failure: why it ended; None where the one in its place is ready.
        is_out: whether none takes its place.
    """

    worker: str
    failure: WorkerError | None = None
    is_out: bool = False


class Backend(ABC):
    """Runs the tasks of calls on devices.

    Its life is :meth:`start`, then any number of calls from any threads, then :meth:`close`. A call is planned by its
    caller (see ``batching/``) and then goes through :meth:`place`, :meth:`enqueue` and :meth:`wait`. A call with
    ``on_done`` needs no :meth:`wait`: the backend calls ``on_done`` when the call is completed. It does so in a thread
    of its own, where :meth:`check_may_wait` raises; or in the call's event loop (:meth:`attach`).

    A backend belongs to the process that made it. In a fork of that process all calls raise RunnerClosedError, and
    :meth:`close` does nothing.

    Attributes:
        descriptions: model name -> what an engine says of the model (see ``worker/building.py``); set by :meth:`start`.
        on_worker_change: may be set after :meth:`start`; called with what becomes of worker processes, in a thread of
            the backend and without a lock.
    """

    descriptions: dict[str, Any]
    on_worker_change: Callable[[WorkerChange], None] | None = None

    def __init__(self) -> None:
        self.descriptions = {}
        self._state = State()
        self._pid = os.getpid()
        self._loops: dict[AbstractEventLoop, EventLoop] = {}
        self._attaching = threading.RLock()  # the handler of a signal may close the backend

    @abstractmethod
    def start(self) -> None:
        """Build the models on all devices at the same time; raise the first failure, for the caller to close."""

    def check_open(self) -> None:
        """Raise RunnerClosedError after :meth:`close` or a fork, or the error of the last device if all are lost."""
        self._check_own()
        state = self._state
        if state.is_closing:
            raise RunnerClosedError("the runner is closed; build a new one")
        if state.error is not None:
            raise copy.copy(state.error)  # one instance would collect the tracebacks of all who get it

    @abstractmethod
    def check_may_wait(self, method: str) -> None:
        """Raise UsageError where the calling thread would wait for itself; ``method`` is what the user called."""

    @abstractmethod
    def place(self, plan: Plan, arrays: Sequence[Array], *, in_place: bool) -> Placement:
        """Take the memory of a call; nothing is copied yet.

        Args:
            plan: how the call is done.
            arrays: its inputs.
            in_place: whether inputs may be read where they lie: the caller does not change them before the call is
                completed.
        """

    @abstractmethod
    def place_rows(self, plan: Plan) -> tuple[Placement, list[Array]]:
        """Take the memory of a call of one chunk whose inputs the caller writes itself before :meth:`enqueue`.

        Returns:
            The placement, and an array for each input, in the model's order.
        """

    @abstractmethod
    def enqueue(self, call: Call) -> None:
        """Write the inputs of a call and queue its tasks. A call that cannot be queued is cancelled."""

    @abstractmethod
    def wait(self, call: Call) -> Any:
        """Wait until a call without ``on_done`` is completed; return its outputs, or raise its error.

        An exception that hits the waiting thread, such as KeyboardInterrupt, cancels the call.
        """

    @abstractmethod
    def cancel(self, call: Call) -> None:
        """Give a call up: its queued tasks are dropped, and so are the replies to those that run."""

    @abstractmethod
    def wait_ahead(self, call: Call) -> None:
        """Wait until a call is completed, but no longer than :data:`AHEAD_S`.

        A caller of many short calls waits so for a later one before it comes for the first. It wakes once for several
        of them then: a thread that wakes for each finds its caches cold each time.
        """

    def keep_busy(self) -> None:  # noqa: B027 (an empty default)
        """Have queued tasks started in time, though the caller will be busy elsewhere before it waits for them."""

    # ---- event loops

    def attach(self, loop: AbstractEventLoop) -> EventLoop:
        """Return the running loop of this thread, attached; the first call attaches it.

        A call that has it as its ``loop`` needs no :meth:`wait`: ``on_done`` is called in the loop's thread.

        Raises:
            RunnerClosedError: the backend is closed.
        """
        found = self._loops.get(loop)
        return found if found is not None else self._attach(loop)

    def _attach(self, loop: AbstractEventLoop) -> EventLoop:
        self._detach_closed()
        with self._attaching:
            self.check_open()
            self._loops[loop] = attached = self._make_event_loop(loop)
        if self._state.is_closing:  # by the handler of a signal, just now
            self._detach_all()
        return attached

    def _make_event_loop(self, loop: AbstractEventLoop) -> EventLoop:
        return EventLoop(loop)

    def _detach_closed(self) -> None:
        """Let go of the loops that are closed; does nothing while another thread attaches or detaches some."""
        if self._loops and self._attaching.acquire(blocking=False):
            try:
                for loop, attached in list(self._loops.items()):
                    if attached.is_closed:
                        del self._loops[loop]
                        attached.detach()
            finally:
                self._attaching.release()

    def _detach_all(self) -> None:
        with self._attaching:
            while self._loops:
                self._loops.popitem()[1].detach()

    # ---- the whole

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Return the figures of ``ParallelPredictUtils.stats``."""

    @abstractmethod
    def empty(self, shape: Any, dtype: Any) -> Array:
        """Return an uninitialised array that a call reads in place; raises UsageError."""

    @abstractmethod
    def close(self) -> None:
        """End all workers in bounded time and give their memory back; open calls fail. Can be called again."""

    @property
    def is_own(self) -> bool:
        """Whether this is the process that made the backend, and not a fork of it."""
        return self._pid == os.getpid()

    def _check_own(self) -> None:
        if self._pid != os.getpid():
            raise RunnerClosedError("this runner was built in another process; build one after the fork")
