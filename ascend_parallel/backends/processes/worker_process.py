"""One worker's handle: its process, its pipe, and the tasks that it owes."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ascend_parallel.backends.call import Task
from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import WorkerError
from ascend_parallel.worker import __main__ as program
from ascend_parallel.worker.memory import receive_segment, send_segment
from ascend_parallel.worker.protocol import EXIT, Channel, encode, encode_predict

from .allocator import Allocator, Segment
from .log_pump import LogPump

PROGRAM = str(Path(program.__file__).resolve())
#: How long an exchange on the side channel may take: the other side has sent already, or will never.
_SIDE_TIMEOUT_S = 10.0
#: A result smaller than this is copied out of the worker's own segment: a caller may keep thousands, and each
#: mapping costs a descriptor (Python's mmap keeps one; from 3.13 on it need not).
_SMALL_SEGMENT_BYTES = 1 << 16 if sys.version_info >= (3, 13) else 16 << 20

_WITHOUT_DESCRIPTOR: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}

_numbers = itertools.count(1)


class WorkerSpec(NamedTuple):
    """Where a worker is to run, and what it builds there; what a restart needs, too.

    Attributes:
        device: such as ``"ascend:0"``.
        label: the device, and the instance where it has several processes: ``"cpu:0#1"``.
        python: the interpreter.
        environ: its environment.
        order: the build order of the wire format; see ``worker/loop.py``.
    """

    device: str
    label: str
    python: str
    environ: dict[str, str]
    order: dict[str, Any]


class Worker:
    """One process; a restart makes a new one.

    Attributes:
        number: tells incarnations apart.
        pid: its process.
        capacity: tasks that it runs at the same time (threads).
        owed: tasks sent and not answered, in the order of sending; the first ``capacity`` are running.
        pace_s: model name -> seconds a row, smoothed.
        is_ready: it has built its models and was not given up.
        has_hung_up: it has closed its pipe, or is not listened to any more.
        is_to_blame: whether its end counts against its device.
        deadline_s: when it must have built its models.
        failure: what it told, or was found out, before its end; None where its end is all there is.
        output: what it prints.
    """

    def __init__(self, post: WorkerSpec, epoll: select.epoll, logs: LogPump, on_exit: Callable[[Worker], None]) -> None:
        """Start the process; ``on_exit`` is called from a thread of its own when it has ended.

        The calling thread must live as long as the worker is to (see parent_watch.py).
        """
        self.number = next(_numbers)
        self.post = post
        self.capacity: int = post.order["instances"]
        self.owed: dict[int, Task] = {}
        self.pace_s: dict[str, float] = {}
        self.is_ready = False
        self.has_hung_up = False
        self.is_to_blame = True
        self.deadline_s = float("inf")
        self.failure: WorkerError | None = None
        self._connection, far = Pipe()
        self._side, far_side = socket.socketpair()
        self._side.settimeout(_SIDE_TIMEOUT_S)
        try:
            with far, far_side:  # closed here at once, so that the worker's death is an EOF
                self._process = _start(post, far.fileno(), far_side.fileno())
        except BaseException:
            self._connection.close()
            self._side.close()
            raise
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self.output = logs.add(os.dup(self._process.stdout.fileno()), post.label)
        self._process.stdout.close()
        self.fd = self._connection.fileno()
        os.set_blocking(self.fd, False)
        self._channel = Channel(self.fd)
        self._epoll = epoll
        epoll.register(self.fd, select.EPOLLIN)
        threading.Thread(target=self._await_exit, args=(on_exit,), daemon=True).start()
        self._send(post.order)

    @property
    def exit_code(self) -> int | None:
        """The process's exit code, negative for a signal; None while it runs."""
        return self._process.returncode

    def send(self, task: Task, pool: Allocator) -> None:
        """Send a task, and the descriptors of shared memory that it names and this worker lacks."""
        for lease in task.call.scattered.leases:
            if self.number not in lease.segment.workers:
                self._announce(lease.segment)
        number = task.renumber()
        self.owed[number] = task
        scattered = task.call.scattered
        retired = pool.take_unmapped(self.number)
        self._send_frame(encode_predict(number, scattered.inputs, scattered.places, task.start, task.fed_rows, retired))

    def receive(self) -> list[Any]:
        """Return the messages that have arrived; raises EOFError or OSError where it has hung up."""
        if self.has_hung_up:
            raise EOFError
        if self._channel.unsent:
            self._channel.flush()
            if not self._channel.unsent:
                self._epoll.modify(self.fd, select.EPOLLIN)
        return self._channel.receive_ready()

    def open_outputs(self, outputs: Any) -> dict[str, Array]:
        """Map the outputs that a worker put into a segment of its own."""
        number, size_bytes, fd = receive_segment(self._side)
        try:
            view = mmap.mmap(fd, size_bytes, **_WITHOUT_DESCRIPTOR)
        finally:
            os.close(fd)
        assert all(reference[0] == number for _, reference in outputs)
        arrays = {name: np.ndarray(shape, dtype, view, at) for name, (_, at, dtype, shape, _) in outputs}
        if size_bytes < _SMALL_SEGMENT_BYTES:
            return {name: array.copy() for name, array in arrays.items()}
        return arrays

    def say_exit(self) -> None:
        """Ask the worker to leave when it is done with what it has."""
        self._send((EXIT,))

    def signal(self, signal_number: signal.Signals) -> None:
        """Send a signal, if the process is still there (its number is not reused before it was waited for)."""
        self._process.send_signal(signal_number)

    def kill(self, failure: WorkerError | None = None) -> None:
        """End the process at once; its tasks are held until it is seen to have ended."""
        self.is_ready = False
        self.deadline_s = float("inf")
        self.failure = self.failure or failure
        self.signal(signal.SIGKILL)

    def close(self) -> None:
        """Close this side's ends; the worker, if it still lives, ends."""
        self.hang_up()
        self._connection.close()
        self._side.close()

    def hang_up(self) -> None:
        """Hear no more of the worker."""
        self.has_hung_up = True
        with contextlib.suppress(OSError):  # it was done before
            self._epoll.unregister(self.fd)

    def _announce(self, segment: Segment) -> None:
        segment.workers.add(self.number)
        with contextlib.suppress(OSError):  # it is dying: its exit tells, and its tasks are sent elsewhere
            send_segment(self._side, segment.number, segment.size_bytes, segment.fd)

    def _send(self, message: Any) -> None:
        self._send_frame(encode(message))

    def _send_frame(self, frame: bytes) -> None:
        try:
            self._channel.send_frame(frame)
        except OSError:
            return  # likewise
        if self._channel.unsent:  # a full pipe: a stopped worker. The event loop sends the rest.
            self._epoll.modify(self.fd, select.EPOLLIN | select.EPOLLOUT)

    def _await_exit(self, on_exit: Callable[[Worker], None]) -> None:
        self._process.wait()
        on_exit(self)


def _start(post: WorkerSpec, pipe_fd: int, side_fd: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [post.python, PROGRAM, str(pipe_fd), str(side_fd), str(os.getpid()), post.label],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=post.environ,
        pass_fds=(pipe_fd, side_fd),
        start_new_session=True,  # Ctrl-C in the terminal is the master's affair
    )
