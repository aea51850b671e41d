"""Futures, their callbacks, closing in the middle; forks of the master; runners that are forgotten."""

import concurrent.futures
import gc
import os
import sys
import threading
import time

import numpy as np
import pytest

from ascend_parallel import RunnerClosedError, UsageError

from . import acting, procs, runners

pytestmark = [pytest.mark.usefixtures("leaves_nothing"), pytest.mark.timeout(60)]


# ---- callbacks


@pytest.mark.parametrize("listening", ["nobody", "another predict"])
def test_predict_in_a_callback_is_refused(listening):
    slow = {"ms_per_row": 50, "slowdown": {0: 20, 1: 20}}  # the predict's devices; the future's is the third
    with runners.simulated("simulated:0-2", slow) as runner:
        found = concurrent.futures.Future()

        def call_back(future):
            try:
                found.set_result(runner.predict(runners.batch()))
            except BaseException as error:
                found.set_exception(error)

        def submit():
            if listening == "another predict":
                procs.wait_until(lambda: _leader(runner) == threading.main_thread().ident, "the predict")
            runner.submit(runners.batch(1, rows=1)).add_done_callback(call_back)

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            submitted = pool.submit(submit)
            if listening == "another predict":
                runners.assert_right(runner, rows=2)
            submitted.result(20)
        with pytest.raises(UsageError, match="in a future's callback.*use submit"):
            found.result(20)
        runners.assert_right(runner)


def _leader(runner):
    """Return the leader."""
    return runner._backend._leader.leader


def test_submit_in_a_callback_works():
    with runners.simulated(fault={"ms_per_row": 20}) as runner:
        second = concurrent.futures.Future()
        first = runner.submit(runners.batch(1))
        first.add_done_callback(lambda _: second.set_result(runner.submit(runners.batch(2))))
        answer = second.result(20).result(20)["output"]
        np.testing.assert_array_equal(answer, runners.batch(2)["x"])


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt], ids=lambda error: error.__name__)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_callback_that_raises_harms_nobody(error, caplog):
    def call_back(_):
        raise error("from a callback")

    with runners.simulated(fault={"ms_per_row": 20}) as runner:
        for mark in range(5):
            future = runner.submit(runners.batch(mark))
            future.add_done_callback(call_back)
            other = runner.submit(runners.batch(-mark))
            np.testing.assert_array_equal(other.result(20)["output"], runners.batch(-mark)["x"])
            runners.assert_right(runner, mark)
            assert future.result(20)
    caplog.clear()  # what the future logged holds its traceback, and so the memory of its result


def test_close_in_a_callback():
    runner = runners.simulated(fault={"ms_per_row": 20})
    runner.build_model()
    closed = threading.Event()

    def call_back(_):
        runner.close()
        closed.set()

    runner.submit(runners.batch()).add_done_callback(call_back)
    assert closed.wait(20)


# ---- closing


def test_close_fails_what_is_pending_and_what_waits():
    runner = runners.acting_runner()
    runner.build_model()
    pending = [runner.submit({"x": acting.rows((acting.SLEEP, 600))}) for _ in range(6)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(runner.predict, {"x": acting.rows((acting.SLEEP, 600))}) for _ in range(2)]
        procs.wait_until(lambda: runner.stats()["shared_memory"]["leased_bytes"] >= 8 * 4096, "both predicts sent")
        runner.close()
        for future in pending + waiting:
            with pytest.raises(RunnerClosedError, match="closed while this call was under way|is closed"):
                future.result(10)
    with pytest.raises(RunnerClosedError, match="not built; call build_model"):
        runner.predict(runners.batch())


@pytest.mark.parametrize("repeat", range(10))
def test_close_while_others_call(repeat):
    runner = runners.simulated()
    runner.build_model()
    runners.close_while_others_call(runner, runners.assert_right)


def test_close_in_a_signal_handler():
    for _ in range(6):
        runner = runners.simulated("simulated:0")
        runner.build_model()
        runners.close_in_a_signal_handler(runner, runners.assert_right)


def test_forgotten_runner_ends_its_workers():
    runner = runners.simulated()
    runner.build_model()
    runners.assert_right(runner)
    watch = procs.Watch(runners.pids(runner))
    del runner
    gc.collect()
    watch.wait_gone(5)


def test_two_runners_side_by_side():
    with runners.simulated("simulated:0") as one, runners.acting_runner("cpu:0", max_retries=0) as other:
        with pytest.raises(Exception, match="SIGKILL"):
            other.predict({"x": acting.rows((acting.KILL,))})
        runners.assert_right(one)
        other.close()
        runners.assert_right(one)
        assert runners.restarts(one) == 0


def test_runner_can_be_built_again():
    runner = runners.simulated()
    for mark in range(3):
        with runner:
            runners.assert_right(runner, mark)


# ---- forks


def _fork(act):
    """Run ``act`` in a forked child that ends as a program does; return what the child's exit code says."""
    with open(os.devnull, "w") as quiet:
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                os.dup2(quiet.fileno(), 2)
                code = act() or 0
                gc.collect()
            finally:
                import atexit

                atexit._run_exitfuncs()  # what sys.exit would do, without pytest's own end
                os._exit(code)
    deadline_s = time.monotonic() + 20
    pidfd = os.pidfd_open(pid)
    procs.Watch([pid]).wait_gone(deadline_s - time.monotonic())
    os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


FORKS = ["ends", "predicts", "closes", "submits", "asks"]


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("child", FORKS)
def test_forked_child_does_no_harm(child):
    with runners.simulated() as runner:
        pids = runners.pids(runner)
        kept = runner.predict({"x": np.full((4, 4096), 5.0)})["output"]
        runners.assert_right(runner)
        memory = procs.segment_sizes()
        acts = {
            "ends": lambda: 0,
            "predicts": lambda: _is_refused(lambda: runner.predict(runners.batch())),
            "submits": lambda: _is_refused(lambda: runner.submit(runners.batch())),
            "asks": lambda: _is_refused(runner.stats),
            "closes": runner.close,
        }
        assert _fork(acts[child]) == 0
        assert procs.segment_sizes() == memory  # else the next call would meet pages that are gone, and SIGBUS
        np.testing.assert_array_equal(kept, 5.0)
        for mark in range(5):
            runners.assert_right(runner, mark)
        assert runners.pids(runner) == pids
        assert runners.restarts(runner) == 0


def _is_refused(act):
    try:
        act()
    except RunnerClosedError as error:
        return 0 if "built in another process; build one after the fork" in str(error) else 1
    return 2


def test_multiprocessing_fork_beside_a_runner():
    import multiprocessing

    if sys.version_info >= (3, 12):
        pytest.skip("warns of threads, which is what this is about")
    with runners.simulated() as runner:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(abs, [-1, 2]) == [1, 2]
        runners.assert_right(runner)
