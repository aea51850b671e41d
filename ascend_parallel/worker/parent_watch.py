"""Ends a worker when its master ends: a leftover worker would hold the chip's memory.

There are two mechanisms, because each can fail alone. The kernel kills the worker when the thread that started it ends
(PR_SET_PDEATHSIG). This works even while an engine holds the GIL; the master starts workers from a thread that lives as
long as the runner. In addition, a thread of the worker watches its pipe, whose other end closes when the master ends.
This works if a debugger or a container disables the first mechanism.

Run by path, this file ties any other program to its parent: ``python parent_watch.py PARENT_PID COMMAND ARGUMENT...``
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1
#: The exit code of a worker whose master has ended.
MASTER_GONE = 3


def tie_to_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent ends; exit at once if the parent has ended already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(MASTER_GONE)


def watch(fd: int) -> None:
    """Exit, from a background thread, as soon as the other end of a pipe is closed."""
    threading.Thread(target=_exit_when_closed, args=(fd,), name="parent_watch", daemon=True).start()


def _exit_when_closed(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # no events: POLLHUP and POLLERR are always reported
    poll.poll()
    os._exit(MASTER_GONE)


if __name__ == "__main__":
    tie_to_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # PR_SET_PDEATHSIG survives it
