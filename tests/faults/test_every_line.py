"""Ctrl-C at each single line of the master's code in turn: deterministic, where test_interrupts.py is random."""

import asyncio
import concurrent.futures
import contextlib
import itertools
import linecache
import os
import sys
import threading

import pytest

import ascend_parallel
from ascend_parallel import WorkerError

from . import runners

pytestmark = [pytest.mark.usefixtures("leaves_nothing"), pytest.mark.timeout(280)]

PACKAGE = os.path.dirname(ascend_parallel.__file__) + os.sep


class InterruptAt:
    """Raises KeyboardInterrupt at the so-many-th line that this thread runs of the package.

    Not at lines of ``with`` and ``try``: there tracing can raise between two instructions that no signal comes
    between, such as a lock's acquisition and the begin of its block. Nor in destructors: Python drops what they raise.
    """

    def __init__(self, number, functions=None):
        self._left = number
        self._functions = functions  # None: all
        self.where = None

    def __enter__(self):
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _trace(self, frame, event, _):
        name = frame.f_code.co_filename
        if self._functions and frame.f_code.co_name not in self._functions:
            return self._trace if name.startswith(PACKAGE) else None
        if not name.startswith(PACKAGE) or frame.f_code.co_name == "__del__":
            return None
        if event == "line" and not linecache.getline(name, frame.f_lineno).lstrip().startswith(("with ", "try:")):
            self._left -= 1
            if self._left == 0:
                sys.settrace(None)
                self.where = f"{os.path.basename(name)}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.parametrize("what", ["predict", "submit", "map", "stats", "predict_async"])
def test_interrupt_at_each_line(what):
    with runners.simulated("simulated:0", max_restarts=0, predict_timeout_s=20) as runner:
        runners.assert_right(runner)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            for number in itertools.count(1):
                with InterruptAt(number) as interrupt:
                    try:
                        _call(runner, what, number)
                    except KeyboardInterrupt:
                        pass
                if interrupt.where is None:
                    break
                try:  # first from another thread: a leader that has not stepped down would show there
                    pool.submit(runners.assert_right, runner, -number).result(10)
                    runners.assert_right(runner, number + 0.5)
                except BaseException as error:
                    raise AssertionError(f"after an interrupt at {interrupt.where}: {error!r}") from error
        assert number > (20 if what == "stats" else 40)
        assert runners.states(runner) == ["ready"]


NOTIFYING = {"_notify", "notify"}


def test_interrupt_while_another_caller_is_notified():
    """The main thread, which listens for its own call, is interrupted while it tells another that its call is over."""
    with runners.simulated("simulated:0,1", {"ms_per_row": 5}, max_restarts=0, predict_timeout_s=20) as runner:
        runners.assert_right(runner)
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            other = pool.submit(_call_until, runner, stop)
            try:
                for number in [*range(1, 30)] * 3:
                    with InterruptAt(number, NOTIFYING), contextlib.suppress(KeyboardInterrupt, WorkerError):
                        runners.assert_right(runner, number, rows=1)
                    runners.assert_right(runner, -number, rows=1)
            finally:
                stop.set()
                assert other.result(20) > 0


ENDING = {"complete", "fail", "_end"}


def test_interrupt_while_another_s_call_ends():
    """The consumer of a map is interrupted as it takes the last answer to a call of submit: its future is told, too."""
    with runners.simulated("simulated:0,1", {"ms_per_row": 1}, max_restarts=1000, predict_timeout_s=20) as runner:
        for number in range(1, 25):
            future = runner.submit(runners.batch(1))
            with InterruptAt(number, ENDING), contextlib.suppress(KeyboardInterrupt, WorkerError):
                list(runner.map(runners.batch(i) for i in range(3)))
            with contextlib.suppress(WorkerError):
                future.result(10)
            with contextlib.suppress(WorkerError):  # the interrupt may have hit an update just now
                runners.assert_right(runner)
            runners.assert_right(runner)


def _call_until(runner, stop):
    right = 0
    while not stop.is_set():
        try:
            runners.assert_right(runner, right, rows=1)
            right += 1
        except WorkerError as error:
            assert "an interrupt hit the runner" in str(error)
    return right


def _call(runner, what, mark):
    if what == "predict":
        runners.assert_right(runner, mark)
    elif what == "stats":
        runner.stats()
    elif what == "map":
        list(runner.map([runners.batch(mark)]))
    elif what == "predict_async":
        _run(runner.predict_async(runners.batch(mark)))
    else:
        runner.submit(runners.batch(mark)).result(10)


def _run(coroutine):
    """Run a coroutine in a new loop, whose Ctrl-C is KeyboardInterrupt: asyncio.run would make it a cancellation."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)
    try:
        loop.run_until_complete(task)
    finally:
        sys.settrace(None)  # the end of the loop is not what is tested
        task.cancel()
        loop.run_until_complete(asyncio.wait([task], timeout=10))
        loop.close()
        if not task.cancelled():
            task.exception()  # else it would be logged; and what is logged holds frames
