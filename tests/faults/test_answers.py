"""No answer is lost, doubled or given to another caller, whatever happened before."""

import concurrent.futures
import os
import random
import signal
import threading

import numpy as np
import pytest

from ascend_parallel import AscendParallelError, EngineError, WorkerTimeout

from . import acting, procs, runners

pytestmark = [pytest.mark.usefixtures("leaves_nothing"), pytest.mark.timeout(120)]

SLOW_S = 0.3
FAILS = {  # a call of two tasks that fails at once or in time, while the answer to its slow half is still to come
    "raised": (acting.RAISE, EngineError, "told to raise"),
    "hung": (acting.HANG, WorkerTimeout, "did not answer"),
    "died": (acting.KILL, AscendParallelError, "died during a predict"),
}


@pytest.mark.parametrize("fails", FAILS)
def test_late_answers_reach_nobody_else(fails):
    what, error, words = FAILS[fails]
    with runners.acting_runner("cpu:0-2", max_retries=0, max_restarts=99, predict_timeout_s=1, chunk_size=1) as runner:
        for mark in range(3):
            with pytest.raises(error, match=words):
                runner.predict(
                    {"x": acting.rows((acting.SLEEP, SLOW_S, -1), (what, 0, -1), (acting.SLEEP, SLOW_S, -1))}
                )
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                for done in [pool.submit(_call_many, runner, 100 * mark + 10 * thread) for thread in range(4)]:
                    done.result(60)
        runners.wait_ready(runner)


def _call_many(runner, first_mark):
    for mark in range(first_mark, first_mark + 10):
        x = acting.rows(*[(acting.ECHO, 0.25 * row, mark) for row in range(1 + mark % 5)])
        np.testing.assert_array_equal(runner.predict({"x": x})["y"], x)


def test_late_answers_of_a_failed_call_do_not_write_into_results_of_the_next():
    """The memory of a call that was given up is not used again before its last worker is done with it."""
    with runners.acting_runner("cpu:0,1", chunk_size=1) as runner:
        shape_known = acting.rows((acting.ECHO,), (acting.ECHO,))
        runner.predict({"x": shape_known})  # from now on workers write results in place
        kept = []
        for mark in range(20):
            with pytest.raises(EngineError):
                runner.predict({"x": acting.rows((acting.SLEEP, 0.02, -7), (acting.RAISE, 0, -7))})
            x = acting.rows((acting.ECHO, 0, mark), (acting.ECHO, 1, mark))
            kept.append((runner.predict({"x": x})["y"], x))
        for answer, x in kept:
            np.testing.assert_array_equal(answer, x)


# ---- the soak

CALLS = 10_000
CALLERS = 4
IN_FLIGHT = 8
KILL_EVERY_S = 0.4


def test_soak():
    """Ten thousand calls of all shapes from four threads, while a fifth kills workers at random."""
    fds = procs.open_fds()
    options = {"max_restarts": 10**6, "max_retries": 10**6}
    with runners.simulated("simulated:0-3", **options) as runner:
        started_fds = procs.open_fds()
        stop = threading.Event()
        killer = threading.Thread(target=_kill_now_and_then, args=(runner, stop))
        killer.start()
        try:
            with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
                callers = [pool.submit(_soak, runner, caller) for caller in range(CALLERS)]
                assert [caller.result(100) for caller in callers] == [CALLS // CALLERS] * CALLERS
        finally:
            stop.set()
            killer.join()
        runners.wait_ready(runner)
        assert runners.restarts(runner) > 0
        assert runners.states(runner) == ["ready"] * 4
        procs.wait_until(lambda: len(procs.children()) == 4, "as many workers as before")
        assert runner.stats()["shared_memory"]["leased_bytes"] == 0
        assert procs.shared_bytes() < 64 << 20
        # Beside those from the start: two descriptors a segment, one of each size of block.
        assert procs.open_fds() <= started_fds + 2 * procs.mapped_segments()
    assert procs.open_fds() <= fds + 2 * procs.mapped_segments()


def _kill_now_and_then(runner, stop):
    chance = random.Random(3)
    while not stop.wait(chance.uniform(0, 2 * KILL_EVERY_S)):
        pid = chance.choice(runners.pids(runner) or [0])
        if pid and procs.is_worker(pid):
            os.kill(pid, signal.SIGKILL)


def _soak(runner, caller):
    """Make this caller's calls; return how many answers it got. Each value names its call, row and place."""
    chance = random.Random(caller)
    done = 0
    waiting = []
    for number in range(CALLS // CALLERS):
        x = _make(chance, caller * CALLS + number)
        if chance.random() < 0.5:
            waiting.append((runner.submit({"x": x}), x))
        else:
            np.testing.assert_array_equal(runner.predict({"x": x})["output"], x)
            done += 1
        while len(waiting) > IN_FLIGHT or (waiting and number == CALLS // CALLERS - 1):
            future, sent = waiting.pop(0)
            np.testing.assert_array_equal(future.result(60)["output"], sent)
            done += 1
    return done


def _make(chance, number):
    shape = (chance.randint(1, 9), *[chance.randint(1, 6) for _ in range(chance.randint(0, 2))])
    if chance.random() < 0.05:
        shape = (*shape, 1000)
    return number + np.arange(np.prod(shape), dtype=np.float64).reshape(shape) / 2**20
