"""One worker process: its pipe, its output, and the tasks that it has in flight."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ascend_parallel.backends.allocator import Segment
from ascend_parallel.backends.call import Task
from ascend_parallel.backends.worker_spec import WorkerSpec
from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import RunnerClosedError, WorkerError
from ascend_parallel.worker.memory import receive_segment, send_segment
from ascend_parallel.worker.protocol import EXIT, Channel, encode, encode_predict

from .log_pump import LogPump
from .placement import SharedPlacement
from .start import StartedProcess, start_process

#: How long an exchange on the side channel may take: the other side has sent already, or will never.
_SIDE_TIMEOUT_S = 10.0
#: A result smaller than this is copied out of the worker's own segment: a caller may keep thousands, and each
#: mapping costs a descriptor (Python's mmap keeps one; from 3.13 on it need not).
_SMALL_SEGMENT_BYTES = 1 << 16 if sys.version_info >= (3, 13) else 16 << 20

_WITHOUT_DESCRIPTOR: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}

_worker_numbers = itertools.count(1)
_task_numbers = itertools.count(1)


class Worker:
    """One process; a restart makes a new one.

    Attributes:
        number: distinguishes a worker from those before it in its slot.
        pid: its process.
        fd: its pipe.
        capacity: how many tasks it runs at the same time (threads).
        in_flight: tasks sent and not answered, in the order of sending; the first ``capacity`` are running.
        seconds_per_row: model name -> seconds, smoothed.
        is_ready: it has built its models and was not given up.
        is_disconnected: it has closed its pipe, or no more is read from it.
        counts_against_device: whether its end counts as a restart of its device.
        deadline_s: when it must have built its models.
        failure: why it was killed, or what it reported before its end; None where its end is all there is.
        output: what it prints.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        epoll: select.epoll,
        logs: LogPump,
        on_exit: Callable[[Worker], None],
        started: StartedProcess | None = None,
    ) -> None:
        """Start the process, if it is not started yet, and send it the build request.

        ``on_exit`` is called from a thread of its own when the process has ended. The calling thread must live as long
        as the worker is to (see ``worker/parent_watch.py``).
        """
        self.number = next(_worker_numbers)
        self.capacity: int = spec.request["instances"]
        self.in_flight: dict[int, Task] = {}
        self.seconds_per_row: dict[str, float] = {}
        self.is_ready = False
        self.is_disconnected = False
        self.counts_against_device = True
        self.deadline_s = float("inf")
        self.failure: WorkerError | None = None
        self._process, self._connection, self._side = started or start_process(spec.python, spec.environ, spec.label)
        self._side.settimeout(_SIDE_TIMEOUT_S)
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self.output = logs.add(os.dup(self._process.stdout.fileno()), spec.label)
        self._process.stdout.close()
        self.fd = self._connection.fileno()
        os.set_blocking(self.fd, False)
        self._channel = Channel(self.fd)
        self._epoll = epoll
        epoll.register(self.fd, select.EPOLLIN)
        threading.Thread(target=self._await_exit, args=(on_exit,), daemon=True).start()
        self._send(encode(spec.request))

    @property
    def exit_code(self) -> int | None:
        """The process's exit code, negative for a signal; None while it runs."""
        return self._process.returncode

    # ---- messages

    def send(self, task: Task, retired: Sequence[int]) -> None:
        """Send a task, and before it the descriptors of segments that it names and this worker lacks.

        Args:
            task: what is to be computed; it gets the number of a new attempt.
            retired: numbers of segments that the worker can unmap.

        Raises:
            RunnerClosedError: an input lies in memory of another runner, which was closed since; nothing was sent.
        """
        placement = task.call.placement
        assert isinstance(placement, SharedPlacement)
        for allocation in placement.allocations:
            if self.number not in allocation.segment.workers:
                if allocation.segment.fd < 0:  # the worker would wait for it for ever
                    raise RunnerClosedError(
                        "an input is a result of a runner that was closed before this one could read it; copy it, or "
                        "close that runner later"
                    )
                self._announce(allocation.segment)
        task.number = number = next(_task_numbers)
        self.in_flight[number] = task
        self._send(encode_predict(number, placement.encoded_chunk(task.index), retired))

    def receive(self) -> list[Any]:
        """Return the messages that have arrived; raises EOFError or OSError where the worker has disconnected."""
        if self.is_disconnected:
            raise EOFError
        if self._channel.unsent:
            self._channel.flush()
            if not self._channel.unsent:
                self._epoll.modify(self.fd, select.EPOLLIN)
        return self._channel.receive_ready()

    def open_outputs(self, outputs: Any) -> dict[str, Array]:
        """Map the outputs that the worker put into a segment of its own."""
        number, size_bytes, fd = receive_segment(self._side)
        try:
            view = mmap.mmap(fd, size_bytes, **_WITHOUT_DESCRIPTOR)
        finally:
            os.close(fd)
        assert all(descriptor[0] == number for _, descriptor in outputs)
        arrays = {name: np.ndarray(shape, dtype, view, at) for name, (_, at, dtype, shape, _) in outputs}
        if size_bytes < _SMALL_SEGMENT_BYTES:
            return {name: array.copy() for name, array in arrays.items()}
        return arrays

    def _announce(self, segment: Segment) -> None:
        segment.workers.add(self.number)
        with contextlib.suppress(OSError):  # it is dying: its exit is noticed, and its tasks are sent elsewhere
            send_segment(self._side, segment.number, segment.size_bytes, segment.fd)

    def _send(self, frame: bytes) -> None:
        try:
            self._channel.send_frame(frame)
        except OSError:
            return  # likewise
        if self._channel.unsent:  # a full pipe: a stopped worker. The rest is sent when epoll reports room.
            self._epoll.modify(self.fd, select.EPOLLIN | select.EPOLLOUT)

    # ---- the end

    def request_exit(self) -> None:
        """Ask the worker to leave when it is done with what it has."""
        self._send(encode((EXIT,)))

    def signal(self, signal_number: signal.Signals) -> None:
        """Send a signal, if the process is still there (its number is not reused before it was waited for)."""
        self._process.send_signal(signal_number)

    def kill(self, failure: WorkerError | None = None) -> None:
        """End the process at once; its tasks are held until its exit is seen."""
        self.deadline_s = float("inf")
        self.failure = self.failure or failure
        self.signal(signal.SIGKILL)

    def disconnect(self) -> None:
        """Read no more from the worker."""
        self.is_disconnected = True
        with contextlib.suppress(OSError):  # it was done before
            self._epoll.unregister(self.fd)

    def close(self) -> None:
        """Close this side's ends; the worker, if it still lives, ends."""
        self.disconnect()
        self._connection.close()
        self._side.close()

    def _await_exit(self, on_exit: Callable[[Worker], None]) -> None:
        self._process.wait()
        on_exit(self)
