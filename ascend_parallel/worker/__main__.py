"""The worker's program. The master starts it, with the engine's own interpreter::

    python3.7 .../ascend_parallel/worker/__main__.py PIPE_FD SIDE_FD PARENT_PID LABEL

PIPE_FD is the worker's end of a ``multiprocessing.Pipe`` (messages, see protocol.py), SIDE_FD a Unix socket
(descriptors of shared memory, see memory.py), both inherited. LABEL is the device, for whoever reads ``ps``.
It is run by path and registers the package ``ascend_parallel`` that it lies in, so that nothing of the master's
environment, which may be a newer Python's, has to be importable. The package's own ``__init__`` imports nothing by
itself: of the package, only this folder is loaded here, and ``from ascend_parallel import Engine`` in a module of the
user's names the very class that is used here, whatever is installed for this interpreter.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import socket
import sys
from typing import List

PACKAGE = "ascend_parallel"


def register_package() -> None:
    """Make the package that this folder lies in importable, and drop this folder from sys.path.

    Python puts the folder of a script first on sys.path: there ``memory`` or ``loop`` would hide a user's.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != folder]
    root = os.path.dirname(folder)
    spec = importlib.util.spec_from_file_location(
        PACKAGE, os.path.join(root, "__init__.py"), submodule_search_locations=[root]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)


def main(argv: List[str]) -> None:
    """Run one worker until its master is done with it.

    Or tell whether an engine can be imported (see probe.py), or which ops a file of Paddle Serving has (see
    ops/paddle_graph.py).
    """
    if argv[0] == "probe":
        from ascend_parallel.worker import probe

        probe.main(argv[1:])
        return
    if argv[0] == "paddle-graph":
        from ascend_parallel.worker.ops import paddle_graph

        paddle_graph.main(argv[1:])
        return
    pipe_fd, side_fd, parent_pid = (int(word) for word in argv[:3])
    for fd in (pipe_fd, side_fd):
        os.set_inheritable(fd, False)  # a child of the engine's must not keep the pipe open
    from ascend_parallel.worker import loop, memory, parent_watch, protocol

    gc.freeze()  # else the exit collects these modules three times; what the model makes later is collected as ever
    parent_watch.tie_to_parent(parent_pid)
    parent_watch.watch(pipe_fd)
    side = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=side_fd)
    try:
        loop.run(protocol.Channel(pipe_fd), memory.MappedSegments(side))
    except (EOFError, BrokenPipeError):
        pass  # the master is gone


if __name__ == "__main__":
    register_package()
    main(sys.argv[1:])
