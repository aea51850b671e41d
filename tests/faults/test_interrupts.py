"""Ctrl-C that the user catches: at any moment, and the next call on the same runner is right."""

import concurrent.futures
import itertools
import random
import signal
import sys
import threading
import time

import numpy as np
import pytest

from ascend_parallel import RunnerClosedError, WorkerError

from . import acting, procs, runners

pytestmark = [pytest.mark.usefixtures("leaves_nothing"), pytest.mark.timeout(280)]

INTERRUPTS = 200
#: Some of them must come while an answer is read; where none does by chance, there are more, up to so many.
MOST_INTERRUPTS = 5_000
MAIN = threading.main_thread().ident


def interrupt():
    signal.pthread_kill(MAIN, signal.SIGINT)


def test_ctrl_c_in_a_long_predict():
    with runners.acting_runner(max_retries=0) as runner:
        before = runners.pids(runner)
        timer = threading.Timer(0.3, interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            runner.predict({"x": acting.rows((acting.SLEEP, 1), (acting.SLEEP, 1))})
        timer.join()
        assert runners.assert_acts(runner) == set(before)  # once they are done with what nobody wants any more


@pytest.mark.parametrize("what", ["build", "map", "future"])
def test_ctrl_c_elsewhere(what):
    slow = {"ms_per_row": 50} if what != "build" else {"build_ms": 60_000}
    runner = runners.simulated(fault=slow)
    timer = threading.Timer(0.5, interrupt)
    with pytest.raises(KeyboardInterrupt):
        if what != "build":
            runner.build_model()
        timer.start()
        if what == "build":
            runner.build_model()
        elif what == "map":
            for _ in runner.map(runners.batch(i) for i in itertools.count()):
                pass
        else:
            runner.submit(runners.batch(rows=100)).result()
    timer.join()
    if what == "build":
        assert procs.children() == []
    else:
        runners.assert_right(runner)
    runner.close()


class Interrupter(threading.Thread):
    """Interrupts the main thread once, some microseconds after it was told to."""

    def __init__(self, seed):
        super().__init__(daemon=True)
        self._random = random.Random(seed)
        self.go = threading.Event()
        self.is_over = False
        self.fired = 0

    def run(self):
        while True:
            self.go.wait()
            self.go.clear()
            if self.is_over:
                return
            until_s = time.perf_counter() + self._random.uniform(0, 500e-6)
            while time.perf_counter() < until_s:
                pass
            interrupt()
            self.fired += 1

    def stop(self):
        self.is_over = True
        self.go.set()
        self.join()


@pytest.fixture
def fine_grained():
    """Have threads take turns every few instructions: else an interrupt comes only where the main thread waits."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual_s)


@pytest.mark.filterwarnings("ignore:Exception ignored in.*__del__:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.may_lose_fds(4)
@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside another thread"])
def test_ctrl_c_at_any_moment(others, fine_grained):
    with runners.simulated("simulated:0", max_restarts=0, predict_timeout_s=20) as runner:
        stop = threading.Event()
        interrupter = Interrupter(seed=1)
        interrupter.start()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = [pool.submit(_call_on, runner, stop) for _ in range(others)]
            try:
                for number in range(MOST_INTERRUPTS):
                    _be_interrupted(runner, interrupter, number)
                    runners.assert_right(runner, -number)
                    if number >= INTERRUPTS and runners.restarts(runner) > 0:
                        break
            finally:
                stop.set()
                interrupter.stop()
            for other in running:
                assert other.result(30) > 0
        assert runners.states(runner) == ["ready"]
        assert runners.restarts(runner) > 0  # of one that came while an answer was read, which is what this is about


def _be_interrupted(runner, interrupter, number):
    """Call until the Ctrl-C has come; all answers until then are right.

    One that hits a destructor is lost: Python prints it, and goes on.
    """
    try:
        interrupter.go.set()
        for mark in itertools.count():
            is_last = interrupter.fired > number
            runners.assert_right(runner, number * 1000 + mark, rows=1)
            if is_last:
                return
    except KeyboardInterrupt:
        return


def _call_on(runner, stop):
    """Call until told to stop; an answer may be lost to the other thread's interrupt, but is never wrong."""
    right = 0
    for mark in itertools.count(10**6):
        if stop.is_set():
            return right
        x = runners.batch(mark, rows=2)
        try:
            answer = runner.predict(x)["output"]
        except (WorkerError, RunnerClosedError) as error:
            assert "an interrupt hit the runner while it read an answer; call again" in str(error)
        else:
            np.testing.assert_array_equal(answer, x["x"])
            right += 1
