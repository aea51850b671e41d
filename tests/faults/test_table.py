"""The fault table of the design: what the engine does in a predict -> what the caller sees, and what then is."""

import re

import pytest

from ascend_parallel import EngineError, WorkerDied, WorkerTimeout

from . import acting, runners

pytestmark = [pytest.mark.usefixtures("leaves_nothing"), pytest.mark.timeout(60)]

TIMEOUT_S = 0.5

TABLE = [  # what the engine does in its third predict -> what the caller sees, and how many restarts
    ("raise", EngineError, r"simulated:0 failed while predicting simulated .*RuntimeError: simulated fault", 0),
    ("kill", WorkerDied, r"worker of simulated:0 died during a predict \(SIGKILL, often the out-of-memory", 1),
    ("segfault", WorkerDied, r"simulated:0 died during a predict \(SIGSEGV, a crash in the engine", 1),
    ("exit", WorkerDied, r"simulated:0 died during a predict \(exit code 0\)", 1),
    ("hang", WorkerTimeout, r"simulated:0 did not answer in 0.5 s and was killed.*raise predict_timeout_s", 1),
    ("hold-gil", WorkerTimeout, r"simulated:0 did not answer in 0.5 s and was killed", 1),
    ("stop", WorkerTimeout, r"simulated:0 did not answer in 0.5 s and was killed", 1),
]
IDS = [row[0] for row in TABLE]


def faulty(fault, **options):
    return {"fault": fault, "fault_on": 3, "fault_devices": [0], **options}


@pytest.mark.parametrize(("fault", "error", "words", "restarts"), TABLE, ids=IDS)
def test_fault_reaches_the_caller_once(fault, error, words, restarts):
    with runners.simulated(fault=faulty(fault), predict_timeout_s=TIMEOUT_S) as runner:
        before = runners.pids(runner)
        for mark in range(2):
            runners.assert_right(runner, mark)
        with pytest.raises(error, match=words) as caught:
            runner.predict(runners.batch(2))
        assert caught.value.device == "simulated:0"
        runners.assert_right(runner, 3)
        runners.wait_ready(runner)
        assert runners.states(runner) == ["ready", "ready"]
        assert runners.restarts(runner) == restarts
        assert (runners.pids(runner) == before) == (restarts == 0)
        runners.assert_right(runner, 4)


RETRIED = [row[0] for row in TABLE if row[1] is WorkerDied]


@pytest.mark.parametrize("fault", RETRIED)
def test_dead_worker_costs_no_call_with_retries(fault):
    with runners.simulated(fault=faulty(fault), max_retries=2) as runner:
        for mark in range(6):  # the third predict of each incarnation on device 0 is its last
            runners.assert_right(runner, mark)
        runners.wait_ready(runner)
        assert runners.restarts(runner) >= 1


def test_engine_error_brings_the_remote_traceback():
    with runners.acting_runner("cpu:0") as runner:
        (pid,) = runners.pids(runner)
        with pytest.raises(EngineError, match="cpu:0 failed.*acting.py:make.*told to raise 41") as caught:
            runner.predict({"x": acting.rows((acting.RAISE, 41))})
        assert re.search(r'acting.py", line \d+, in _raise', caught.value.remote_traceback)
        assert "ValueError: told to raise 41" in caught.value.remote_traceback
        assert runners.assert_acts(runner) == {pid}


def test_exit_code_is_told():
    with runners.acting_runner("cpu:0", max_retries=0) as runner:
        with pytest.raises(WorkerDied, match=r"cpu:0 died during a predict \(exit code 9\)") as caught:
            runner.predict({"x": acting.rows((acting.EXIT, 9))})
        assert caught.value.exit_code == 9
        runners.assert_acts(runner)


def test_worker_that_hangs_up_but_lives_is_ended():
    with runners.acting_runner("cpu:0", max_retries=0) as runner:
        with pytest.raises(WorkerDied, match="cpu:0 died during a predict .its pipe closed"):
            runner.predict({"x": acting.rows((acting.HANG_UP,))})
        runners.assert_acts(runner)
        assert runners.restarts(runner) == 1


def test_death_is_noticed_though_a_child_holds_the_pipe():
    with runners.acting_runner("cpu:0,1", max_retries=0) as runner:
        with pytest.raises(WorkerDied, match="SIGKILL"):
            runner.predict({"x": acting.rows((acting.FORK_AND_DIE, 3))})
        runners.assert_acts(runner)


def test_flood_arrives_with_the_device_in_front(capfd):
    with runners.simulated("simulated:0", {"fault": "flood", "fault_on": 1}, predict_timeout_s=30) as runner:
        runners.assert_right(runner)
        runners.assert_right(runner)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 2 * ((4 << 20) // 80)
    assert set(lines) == {"[simulated:0] " + "x" * 79}


def test_last_words_are_quoted():
    with runners.acting_runner("cpu:0", {"say": "ascend said 507033"}, max_retries=0) as runner:
        with pytest.raises(WorkerDied, match=r"(?s)its last lines:.*\| ascend said 507033.*device is occupied"):
            runner.predict({"x": acting.rows((acting.SAY,), (acting.KILL,))})
