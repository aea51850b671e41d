"""A worker never outlives its master: a leftover worker would hold the chip's memory.

Two ropes, because each can break alone. The kernel kills the worker when the thread that started it ends
(PR_SET_PDEATHSIG; it works even while an engine holds the interpreter's lock, and the master starts workers
from a thread that lives as long as the runner). And a thread of the worker's own watches the pipe, whose other
end closes with the master (it works where a debugger or container breaks the first).

Run by path, it ties any other program to its parent: ``python parent_watch.py PARENT_PID COMMAND ARGUMENT...``
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1
#: The exit code of a worker whose master is gone; nobody is left to read it but the system's log.
MASTER_GONE = 3


def tie_to_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; leave at once where it has ended already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(MASTER_GONE)


def watch(fd: int) -> None:
    """Leave, from a thread in the background, as soon as the other end of a pipe is closed."""
    threading.Thread(target=_leave_when_closed, args=(fd,), name="parent_watch", daemon=True).start()


def _leave_when_closed(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # asks for no event: POLLHUP and POLLERR are reported always
    poll.poll()
    os._exit(MASTER_GONE)


if __name__ == "__main__":
    tie_to_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # the tie outlives it
