"""Starts a worker's process; some are started ahead, before there is a runner.

A worker needs a tenth of a second for Python and numpy before it can take its build request. A process that is started
ahead does that while the master still imports its own modules and lists its files. This module imports no numpy.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ascend_parallel.backends.worker_spec import WorkerSpec
from ascend_parallel.worker import __main__ as program

PROGRAM = str(Path(program.__file__).resolve())


class StartedProcess(NamedTuple):
    """A worker's process, which waits for its build request.

    Attributes:
        process: the process; its stdout is a pipe with all that it prints.
        connection: this end of its pipe.
        side: this end of its side channel.
    """

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    side: socket.socket

    def kill(self) -> None:
        """End a process that no worker has taken; wait for it."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self.side.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


def start_process(python: str, environ: dict[str, str], label: str) -> StartedProcess:
    """Start a worker's process.

    The calling thread must live as long as the process is to (see ``worker/parent_watch.py``).

    Raises:
        OSError: ``python`` cannot be run, or there are no more descriptors or processes.
    """
    connection, far = Pipe()
    side, far_side = socket.socketpair()
    try:
        with far, far_side:  # closed here at once, so that the process's end is an EOF
            process = subprocess.Popen(
                [python, PROGRAM, str(far.fileno()), str(far_side.fileno()), str(os.getpid()), label],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environ,
                pass_fds=(far.fileno(), far_side.fileno()),
                start_new_session=True,  # Ctrl-C in the terminal is the master's affair
            )
    except BaseException:
        connection.close()
        side.close()
        raise
    return StartedProcess(process, connection, side)


class StartedAhead:
    """Processes that were started before the specs of their workers are known; a ``with`` ends those not taken."""

    def __init__(self, python: str, environ: dict[str, str], labels: Iterable[str]) -> None:
        """Start a process for each label. What cannot be started is left to the runner, which reports why."""
        self._key = (python, environ)
        self._processes: dict[str, StartedProcess] = {}
        try:
            for label in labels:
                self._processes[label] = start_process(python, environ, label)
        except OSError:
            pass
        except BaseException:  # Ctrl-C
            self.close()
            raise

    def take(self, spec: WorkerSpec) -> StartedProcess | None:
        """Return the process that was started for such a worker; None where there is none, or it was taken."""
        return self._processes.pop(spec.label, None) if (spec.python, spec.environ) == self._key else None

    def close(self) -> None:
        """End the processes that were not taken."""
        while self._processes:
            self._processes.popitem()[1].kill()

    def __enter__(self) -> StartedAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
