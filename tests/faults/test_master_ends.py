"""However the master ends, its workers end with it, at once; and it ends as Python programs do."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from . import masters, procs

pytestmark = pytest.mark.timeout(60)

#: What the design promises is a second; the rest is for a machine that does much else.
GONE_S = 2.0
ENDED_S = 5.0


class Master:
    """A master process, brought into a state."""

    def __init__(self, process):
        self._process = process
        self.pid = process.pid
        self.errors = []
        self._working = threading.Semaphore(0)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.workers = [int(word) for word in self.read_line().split()[1:]]
        assert len(self.workers) == 2, "".join(self.errors)
        self.watch = procs.Watch(self.workers)

    def _read(self):
        for line in self._process.stderr:
            self.errors.append(line)
            if line.endswith("] working\n"):
                self._working.release()

    def wait_working(self):
        """Return when both workers are in the middle of a predict."""
        for _ in self.workers:
            assert self._working.acquire(timeout=20), "no worker is working"

    def wait(self, timeout_s):
        """Return the exit code; the pipes are at their ends then."""
        code = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def read_line(self):
        return self._process.stdout.readline()

    def say(self):
        self._process.stdin.write("now\n")
        self._process.stdin.flush()

    def send(self, number):
        self._process.send_signal(number)


@contextlib.contextmanager
def master(state, end="wait"):
    """Start a master and wait until it is in a state."""
    pipe = subprocess.PIPE
    program = [sys.executable, masters.__file__, state, end]
    process = subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    found = Master(process)
    try:
        if state in masters.IN_THE_MIDDLE:
            found.wait_working()
        yield found
    finally:
        process.kill()
        process.wait()
        for pid in filter(procs.is_worker, found.workers):  # only where the test has failed
            os.kill(pid, signal.SIGKILL)
        found._reader.join(ENDED_S)
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


STATES = ["idle", "building", "predict", "map", "hold-gil"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("state", STATES)
def test_master_ended_by_a_signal(state, number):
    with master(state) as ended:
        ended.send(number)
        assert ended.wait(ENDED_S) == -number
        ended.watch.wait_gone(GONE_S)


@pytest.mark.parametrize("state", ["idle", "predict"])
def test_master_killed_while_a_forked_child_holds_its_pipes(state):
    with master(state, "fork") as ended:
        child = int(ended.read_line())
        try:
            ended.send(signal.SIGKILL)
            ended.watch.wait_gone(GONE_S)
            assert os.path.exists(f"/proc/{child}")
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("state", STATES)
def test_ctrl_c(state):
    with master(state) as ended:
        started_s = time.monotonic()
        ended.send(signal.SIGINT)
        assert ended.wait(ENDED_S) == -signal.SIGINT  # as Python ends on a KeyboardInterrupt that nobody catches
        assert time.monotonic() - started_s < ENDED_S
        ended.watch.wait_gone(GONE_S)
        text = "".join(ended.errors)
        assert text.rstrip().endswith("KeyboardInterrupt")
        assert text.count("Traceback") == 1


ENDS = [("exit", 7, None), ("raise", 1, "ValueError: nobody catches this")]


@pytest.mark.parametrize("state", ["idle", "predict", "hold-gil"])
@pytest.mark.parametrize(("end", "code", "last"), ENDS, ids=["sys.exit", "exception"])
def test_interpreter_ends_without_close(state, end, code, last):
    with master(state, end) as ended:
        ended.say()
        assert ended.wait(ENDED_S) == code
        ended.watch.wait_gone(GONE_S)
        text = "".join(line for line in ended.errors if not line.endswith("] working\n"))
        assert text.rstrip().endswith(last) if last else text == ""
