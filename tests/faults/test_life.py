"""Workers that end, hang or fail while building, while idle, and for good; and the tasks that they held."""

import concurrent.futures
import os
import signal
import threading
import time

import numpy as np
import pytest

from ascend_parallel import EngineError, RunnerClosedError, WorkerDied, WorkerTimeout

from . import acting, procs, runners

pytestmark = [pytest.mark.usefixtures("leaves_nothing"), pytest.mark.timeout(60)]

BUILD_TABLE = [  # what the engine of device 1 does while building -> what build_model raises
    ("raise", EngineError, r"simulated:1 failed while building simulated .*RuntimeError: simulated fault"),
    ("kill", WorkerDied, r"simulated:1 died while building \(SIGKILL"),
    ("segfault", WorkerDied, r"simulated:1 died while building \(SIGSEGV"),
    ("exit", WorkerDied, r"simulated:1 died while building \(exit code 0"),
    ("hang", WorkerTimeout, r"simulated:1 did not build its model in 2 s and was killed.*raise build_timeout_s"),
    ("hold-gil", WorkerTimeout, r"simulated:1 did not build its model in 2 s and was killed"),
    ("stop", WorkerTimeout, r"simulated:1 did not build its model in 2 s and was killed"),
]


@pytest.mark.parametrize(("fault", "error", "words"), BUILD_TABLE, ids=[row[0] for row in BUILD_TABLE])
def test_fault_while_building(fault, error, words, tmp_path):
    there = tmp_path / "while"
    there.touch()
    options = {"fault": fault, "fault_on": "build", "fault_devices": [1], "fault_while": str(there)}
    runner = runners.simulated("simulated:0-2", options, build_timeout_s=2.0)
    with pytest.raises(error, match=words) as caught:
        runner.build_model()
    assert caught.value.device == "simulated:1"
    assert procs.children() == []  # the others were ended before it raised
    there.unlink()
    with runner:  # the same runner, now that its device works
        runners.assert_right(runner)
        assert runners.restarts(runner) == 0


def test_build_error_brings_the_remote_traceback():
    options = {"fault": "raise", "fault_on": "build"}
    with pytest.raises(EngineError) as caught:
        runners.simulated("simulated:0", options).build_model()
    assert "RuntimeError: simulated fault" in caught.value.remote_traceback


def test_idle_worker_is_restarted_without_being_asked():
    with runners.simulated() as runner:
        before = runners.pids(runner)
        os.kill(before[0], signal.SIGKILL)
        procs.wait_until(lambda: runners.restarts(runner) == 1, "a restart")
        runners.wait_ready(runner)
        after = runners.pids(runner)
        assert after[1] == before[1]
        assert after[0] != before[0]
        runners.assert_right(runner)


def test_restart_that_fails_once_is_tried_again(tmp_path):
    there = tmp_path / "while"
    options = {"fault": "kill", "fault_on": "build", "fault_devices": [0], "fault_while": str(there)}
    with runners.simulated(fault=options) as runner:
        there.touch()
        os.kill(runners.pids(runner)[0], signal.SIGKILL)
        procs.wait_until(lambda: runners.restarts(runner) == 2, "a second try")
        there.unlink()
        runners.wait_ready(runner)
        assert runners.states(runner) == ["ready", "ready"]
        runners.assert_right(runner)


@pytest.mark.parametrize("fault", ["kill", "raise"])
def test_device_that_fails_too_often_is_out_and_others_carry_on(fault, tmp_path):
    there = tmp_path / "while"
    options = {"fault": fault, "fault_on": "build", "fault_devices": [0], "fault_while": str(there)}
    with runners.simulated(fault=options, max_restarts=2) as runner:
        there.touch()
        os.kill(runners.pids(runner)[0], signal.SIGKILL)
        procs.wait_until(lambda: "out" in runners.states(runner), "the device given up")
        assert runners.states(runner) == ["out", "ready"]
        assert runners.restarts(runner) == 2
        for mark in range(3):
            runners.assert_right(runner, mark)


def test_all_devices_out_is_told_at_once_to_those_who_wait_and_those_who_come(tmp_path):
    there = tmp_path / "while"
    options = {"fault": "exit", "fault_on": "build", "fault_while": str(there), "ms_per_row": 10_000}
    with runners.simulated(fault=options, max_restarts=1, max_retries=5) as runner:
        waiting = [runner.submit(runners.batch(mark)) for mark in range(3)]
        there.touch()
        for pid in runners.pids(runner):
            os.kill(pid, signal.SIGKILL)
        for future in waiting:
            with pytest.raises(WorkerDied, match=r"no device is left.*max_restarts.*while building .exit code 0"):
                future.result(20)
        for call in (runner.predict, runner.submit):
            started_s = time.monotonic()
            with pytest.raises(WorkerDied, match="no device is left"):
                call(runners.batch())
            assert time.monotonic() - started_s < 1.0
        assert procs.children() == []


def test_no_restarts_allowed():
    with runners.simulated(max_restarts=0, max_retries=2) as runner:
        os.kill(runners.pids(runner)[1], signal.SIGKILL)
        runners.assert_right(runner)
        procs.wait_until(lambda: "out" in runners.states(runner), "the device given up")
        runners.assert_right(runner)


# ---- the tasks that a worker held


def test_without_retries_a_death_reaches_the_caller_and_nobody_else():
    with runners.acting_runner("cpu:0,1", max_retries=0, chunk_size=1) as runner:
        first = runner.submit({"x": acting.rows((acting.SLEEP, 0.3), (acting.KILL,))})
        others = [runner.submit({"x": acting.rows((acting.ECHO, 0, mark))}) for mark in range(6)]
        with pytest.raises(WorkerDied, match="SIGKILL"):
            first.result(20)
        for mark, other in enumerate(others):  # those queued behind the death were never run: not their fault
            assert other.result(20)["y"][0, 2] == mark


@pytest.mark.parametrize("max_retries", [0, 1, 2])
def test_poison_kills_one_worker_a_try_and_harms_no_other_call(max_retries):
    with runners.acting_runner("cpu:0,1", max_retries=max_retries, max_restarts=50) as runner:
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            marks = pool.submit(_call_until, runner, stop)
            with pytest.raises(WorkerDied, match="died during a predict .SIGKILL"):
                runner.predict({"x": acting.rows((acting.KILL,))})
            assert runners.restarts(runner) == max_retries + 1
            stop.set()
            assert marks.result(20) > 0
        runners.wait_ready(runner)
        runners.assert_acts(runner)


def _call_until(runner, stop):
    """Call until told to stop; return how many calls were right."""
    mark = 0
    while not stop.is_set():
        x = acting.rows((acting.ECHO, 0, mark))
        np.testing.assert_array_equal(runner.predict({"x": x})["y"], x)
        mark += 1
    return mark


def test_tasks_behind_a_hang_are_answered_by_others():
    with runners.acting_runner("cpu:0,1", max_retries=0, predict_timeout_s=1.0) as runner:
        hang = runner.submit({"x": acting.rows((acting.HANG,))})
        others = [runner.submit({"x": acting.rows((acting.SLEEP, 0.05, mark))}) for mark in range(8)]
        answers = [other.result(20) for other in others]
        assert [answer["y"][0, 2] for answer in answers] == list(range(8))
        with pytest.raises(WorkerTimeout, match="did not answer in 1 s and was killed"):
            hang.result(20)
        runners.wait_ready(runner)
        assert runners.restarts(runner) == 1


def test_stopped_idle_worker_is_found_out_and_closing_is_bounded():
    with runners.simulated(predict_timeout_s=0.5) as runner:
        os.kill(runners.pids(runner)[0], signal.SIGSTOP)
        with pytest.raises(WorkerTimeout, match="simulated:0 did not answer"):
            runner.predict(runners.batch())
        runners.assert_right(runner)
        runners.wait_ready(runner)
        os.kill(runners.pids(runner)[0], signal.SIGSTOP)  # past EXIT and SIGTERM


def test_late_answers_of_a_failed_call_do_not_make_its_worker_look_hung():
    with runners.acting_runner("cpu:0,1", predict_timeout_s=1.0, chunk_size=1) as runner:
        before = runners.pids(runner)
        with pytest.raises(EngineError, match="told to raise"):
            runner.predict({"x": acting.rows((acting.SLEEP, 0.3), (acting.RAISE,))})
        time.sleep(2.0)  # nobody calls for longer than the timeout: that is the case
        assert runners.pids(runner) == before
        assert runners.restarts(runner) == 0


def test_a_runner_that_is_closed_while_it_is_built_frees_its_builder():
    """Else a server whose second model fails at once waits for ever for the thread that builds the first."""
    runner = runners.simulated(fault={"fault": "hang", "fault_on": "build"})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        building = pool.submit(runner.build_model)
        procs.wait_until(lambda: len(procs.children()) >= 2, "workers that build")
        runner.close()
        with pytest.raises(RunnerClosedError, match="closed while it was being built"):
            building.result(20)
