"""``map``: nobody but its consumer listens, so what if that is about something else?"""

import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from ascend_parallel import EngineError, RunnerClosedError, UsageError, WorkerError, WorkerTimeout

from . import acting, procs, runners

pytestmark = pytest.mark.usefixtures("leaves_nothing")

PARTS = 2
AHEAD = 2 * PARTS + 1


def tasks_done(runner) -> int:
    return sum(worker["tasks"] for worker in runner.stats()["workers"].values())


def test_tasks_that_wait_are_sent_while_the_consumer_is_busy():
    with runners.simulated(chunk_size=1) as runner:
        results = runner.map(runners.batch(i) for i in range(100))
        next(results)
        procs.wait_until(lambda: tasks_done(runner) >= 4 * AHEAD - 2 * PARTS, "the queue is empty")
        assert len(list(results)) == 99


def test_tasks_that_wait_are_sent_while_the_producer_is_busy():
    """The first item alone has more tasks than workers have room for; the second takes as long as it likes."""
    with runners.simulated(chunk_size=1) as runner:

        def items():
            yield runners.batch(0, rows=40)
            procs.wait_until(lambda: tasks_done(runner) >= 40 - 2 * PARTS, "the queue is empty")
            yield runners.batch(1, rows=1)

        assert len(list(runner.map(items()))) == 2


def test_workers_that_have_answered_a_busy_consumer_are_not_overdue():
    with runners.simulated(chunk_size=4, predict_timeout_s=0.2) as runner:
        results = runner.map(runners.batch(i) for i in range(20))
        next(results)
        time.sleep(0.7)  # the time itself is what is tested: three limits
        assert len(list(results)) == 19
        assert runners.restarts(runner) == 0


def test_a_hung_worker_is_found_while_the_consumer_is_busy():
    items = [{"x": acting.rows((acting.HANG if i == 2 else acting.ECHO, 0, i))} for i in range(20)]
    with runners.acting_runner(chunk_size=1, predict_timeout_s=0.3) as runner:
        results = runner.map(items)
        next(results)
        procs.wait_until(lambda: runners.restarts(runner) == 1, "the hung worker was replaced")
        next(results)
        with pytest.raises(WorkerTimeout, match="did not answer in 0.3 s"):
            next(results)


def test_a_dead_worker_s_tasks_are_done_while_the_consumer_is_busy():
    """Its device is out, so that nobody builds, and nobody would listen for that."""
    items = [{"x": acting.rows((acting.SLEEP, 0.2 * (i > 0), i))} for i in range(AHEAD)]
    with runners.acting_runner(chunk_size=1, max_restarts=0) as runner:
        results = runner.map(items)
        next(results)
        slots = runner._backend._pool.slots  # stats() would receive more replies
        os.kill(slots[0].worker.pid, signal.SIGKILL)
        procs.wait_until(lambda: sum(slot.stats()["tasks"] for slot in slots) == AHEAD, "all replies were received")
        assert [result["y"][0, 2] for result in results] == [1, 2, 3, 4]


def test_a_map_that_is_given_up_is_no_burden():
    with runners.simulated(chunk_size=4) as runner:
        for _ in runner.map(runners.batch(i) for i in range(100)):
            break
        procs.wait_until(
            lambda: runner._backend._allocator.held_bytes()[0] == 0, "its memory is free, though nobody calls again"
        )
        for mark in range(10):
            runners.assert_right(runner, mark)


def test_a_long_error_is_no_hang():
    """It is longer than one read takes; whoever looks for workers that are overdue must have read all of it."""
    items = [{"x": acting.rows((what, 0, 0))} for what in (acting.ECHO, acting.RAISE_AT_LENGTH, acting.ECHO)]
    with runners.acting_runner("cpu:0", predict_timeout_s=0.3) as runner:
        results = runner.map(items)
        next(results)
        time.sleep(1)  # the time itself is what is tested
        with pytest.raises(EngineError):
            next(results)
        assert runners.restarts(runner) == 0


def test_a_message_that_is_none_costs_no_more_than_the_open_calls():
    items = [{"x": acting.rows((what, 0, 0))} for what in (acting.ECHO, acting.ECHO, acting.BABBLE, acting.ECHO)]
    with runners.acting_runner("cpu:0", max_retries=0) as runner:
        results = runner.map(items)
        next(results)
        procs.wait_until(lambda: runners.restarts(runner) == 1, "the worker was replaced")
        with pytest.raises(WorkerError, match="sent what is no message.*descriptors that are not its own"):
            list(results)
        runners.wait_ready(runner)
        runners.assert_acts(runner)


def test_a_fork_cannot_go_on_with_a_map():
    """Neither into the parent's memory, nor with the parent's answers."""
    with runners.acting_runner(chunk_size=1) as runner:
        results = runner.map([{"x": acting.rows((acting.ECHO, 0, i))} for i in range(10)])
        for i in range(10):  # first there are items left, then answers only
            (mark,) = next(results)["y"][:, 2]
            assert mark == i
            child = os.fork()
            if child == 0:
                try:
                    next(results)
                except RunnerClosedError:
                    os._exit(0)
                finally:
                    os._exit(0 if i == 9 else 1)  # after the last there is nothing to go on with
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert runners.restarts(runner) == 0


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("map", lambda runner: next(runner.map([runners.batch()]))),
        ("run_predict", lambda runner: runner.run_predict([[runners.batch()["x"]]])),
    ],
)
def test_waiting_in_a_callback_is_refused(name, call):
    """It would wait for the very thread that it runs in."""
    with runners.simulated() as runner:
        told = Future()

        def callback(_):
            with pytest.raises(UsageError) as error:
                call(runner)
            told.set_result(str(error.value))

        runner.submit(runners.batch()).add_done_callback(callback)
        assert told.result(10).startswith(f"{name} was called in a future's callback")
        runners.assert_right(runner)


def test_map_predict_and_submit_at_the_same_time():
    """Whoever leaves the pipes hands them over to those who wait."""
    marks = range(200)

    def mapping():
        for mark, outputs in zip(marks, runner.map(map(runners.batch, marks)), strict=True):
            np.testing.assert_array_equal(outputs["output"], runners.batch(mark)["x"])

    def predicting():
        for mark in marks:
            runners.assert_right(runner, mark)

    def submitting():
        futures = [runner.submit(runners.batch(mark)) for mark in marks]
        for mark, future in zip(marks, futures, strict=True):
            np.testing.assert_array_equal(future.result(30)["output"], runners.batch(mark)["x"])

    work = [mapping, predicting, submitting, mapping, predicting]
    with runners.simulated(chunk_size=2) as runner, ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(job) for job in work]:
            future.result(60)
