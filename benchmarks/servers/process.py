"""Runs one server: starts it, waits until it answers rightly, measures it, and leaves nothing of it."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sides.cpu import PROC, Times, find_parent, read_threads, read_times

from .job import Job
from .server import Server, ServerError, environment

#: Ray and Paddle Serving take several seconds; the rest is for slow machines.
START_TIMEOUT_S = 120.0
POLL_INTERVAL_S = 0.05
REQUEST_TIMEOUT_S = 30.0
#: After this long a server that was asked to end is killed.
STOP_TIMEOUT_S = 15.0
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent ends, such as daemons of a server, so that they can be ended."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


class RunningServer:
    """A server that answers.

    Attributes:
        server: what it is.
        port: its port on 127.0.0.1.
        log: the file with its output.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.port = find_port()
        self.log = folder / "log"
        self._had = self._leftovers("*")
        temporary = folder / "tmp"
        temporary.mkdir()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                server.command(self.port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment(server, temporary),
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it is ready, and check an answer; raises ServerError."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None:
                raise ServerError(
                    f"{self.server.title} ended with exit code {self._process.returncode}: {self._tail()}"
                )
            if time.monotonic() > deadline_s:
                raise ServerError(f"{self.server.title} was not ready after {START_TIMEOUT_S:g} s: {self._tail()}")
            time.sleep(POLL_INTERVAL_S)
        self.check()

    def check(self) -> None:
        """Send the request once and check the answer; raises ServerError."""
        try:
            status, headers, body = self._ask("POST", self._path())
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"{self.server.title} did not answer: {error!r}; {self._tail()}") from error
        if status != http.client.OK:
            raise ServerError(f"{self.server.title} answered {status}: {body[:500]!r}; {self._tail()}")
        self.server.check(headers, body)

    def url(self) -> str:
        """Return the URL of the route that infers."""
        return f"http://127.0.0.1:{self.port}{self._path()}"

    def stop(self) -> None:
        """End it and all its processes, and remove what it left outside its folder."""
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        kill_descendants()
        self._process.wait()
        for path in self._leftovers(str(self._process.pid)) - self._had:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _leftovers(self, process_id: str) -> set[Path]:
        """Return what there is of the files that such a server may leave."""
        patterns = [pattern.replace("PID", process_id) for pattern in self.server.leftovers]
        return {Path(path) for pattern in patterns for path in glob.glob(pattern)}  # noqa: PTH207 (absolute)

    def _is_ready(self) -> bool:
        try:
            if self.server.ready_path:
                return self._ask("GET", self.server.ready_path)[0] == http.client.OK
            return self._ask("POST", self._path())[0] == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def _ask(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        """Send one request; return the status, the headers with names in lower case, and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_TIMEOUT_S)
        with contextlib.closing(connection):
            is_post = method == "POST"
            connection.request(
                method, path, self.server.body() if is_post else None, self.server.headers() if is_post else {}
            )
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()

    def _path(self) -> str:
        return self.server.path.replace("NAME", self.server.job.name)

    def _tail(self) -> str:
        return "its last output:\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


@contextlib.contextmanager
def running(kind: type[Server], job: Job, venvs: Path, parent: Path) -> Iterator[RunningServer]:
    """Start a server and wait for it; end it in any case. Its files lie in a folder of ``parent`` until then."""
    folder = Path(tempfile.mkdtemp(dir=parent))  # a short name: sockets lie below it
    server = RunningServer(kind(job, venvs), folder)
    try:
        server.wait()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def find_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def descendants() -> list[int]:
    """Return the ids of all processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            children.setdefault(find_parent(entry), []).append(int(entry.name))
    found, waiting = [], [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def kill_descendants() -> None:
    """Kill all processes below this one, and reap those that became its children.

    One server runs at a time, so all of them are its own.
    """
    while alive := descendants():
        for process_id in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(POLL_INTERVAL_S / 10)


def server_times() -> Times:
    """Return the CPU time of all threads of the server's processes."""
    own = read_threads(PROC / str(os.getpid()))
    return {thread: ns for thread, ns in read_times(os.getpid()).items() if thread not in own}
