"""Faults of threads: what the engine does -> what the caller sees, and what then is. A crash ends the process."""

import concurrent.futures
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from ascend_parallel import (
    EngineError,
    ParallelPredictUtils,
    RunnerClosedError,
    UsageError,
    WorkerError,
    WorkerTimeout,
)
from ascend_parallel.backends.threads import backend as module

from . import procs, runners, thread_models
from .test_futures_and_forks import _fork, _is_refused
from .thread_models import ECHO, EXIT, HANG, INTERRUPT, RAISE, SLEEP, rows

pytestmark = [pytest.mark.usefixtures("leaves_nothing", "clean"), pytest.mark.timeout(60)]


@pytest.fixture
def clean(monkeypatch):
    """Let hanging threads go on at the end of each test."""
    monkeypatch.setattr(thread_models, "go_on", threading.Event())
    monkeypatch.setattr(thread_models, "hangs", threading.Event())
    yield
    thread_models.go_on.set()


def make(devices="cpu:0,1", **options):
    return ParallelPredictUtils(
        "faults.thread_models:make", devices=devices, workers="threads", **{"chunk_size": 1, **options}
    )


def assert_right(runner, mark=7.0):
    x = rows(*[(ECHO, mark + i) for i in range(5)])
    np.testing.assert_array_equal(runner.predict(x)["y"], x["x"])


def states(runner):
    return [worker["state"] for worker in runner.stats()["workers"].values()]


TABLE = [  # what the engine does -> what the caller sees, and the state of the instances then
    (RAISE, EngineError, r"cpu:[01] failed while predicting .*ValueError: told to raise 3", 0),
    (EXIT, EngineError, r"cpu:[01] failed while predicting .*SystemExit: 3", 0),
    (INTERRUPT, EngineError, r"cpu:[01] failed while predicting .*KeyboardInterrupt", 0),
    (HANG, WorkerTimeout, r"cpu:[01] did not answer in 0.3 s and is lost.*raise predict_timeout_s", 1),
]


@pytest.mark.parametrize(("what", "error", "words", "lost"), TABLE, ids=["raise", "exit", "interrupt", "hang"])
def test_fault_reaches_its_caller_alone(what, error, words, lost):
    with make(predict_timeout_s=0.3) as runner:
        assert_right(runner)
        before = time.monotonic()
        with pytest.raises(error, match=words) as caught:
            runner.predict(rows((ECHO, 1), (what, 3), (ECHO, 2)))
        assert time.monotonic() - before < 5
        assert caught.value.device in ("cpu:0", "cpu:1")
        if error is EngineError:
            assert "thread_models.py" in caught.value.remote_traceback
        for mark in range(5):
            assert_right(runner, mark)
        assert states(runner).count("out") == lost
        thread_models.go_on.set()  # a thread that comes back late gives its answer to nobody
        assert_right(runner, 9)


def test_tasks_behind_a_hang_are_computed_by_others():
    with make(predict_timeout_s=0.5) as runner:
        hang = runner.submit(rows((HANG,)))
        others = [runner.submit(rows((SLEEP, 0.01), (ECHO, mark))) for mark in range(8)]
        assert [other.result(20)["y"][1, 1] for other in others] == list(range(8))
        with pytest.raises(WorkerTimeout):
            hang.result(20)
        thread_models.go_on.set()


def test_the_last_instance_lost_is_an_error_for_those_who_wait_and_those_who_come():
    with make("cpu:0", predict_timeout_s=0.3) as runner:
        hang = runner.submit(rows((HANG,)))
        waiting = [runner.submit(rows((ECHO, mark))) for mark in range(3)]
        with pytest.raises(WorkerTimeout, match="did not answer in 0.3 s"):
            hang.result(20)
        for future in waiting:
            with pytest.raises(WorkerError, match="no instance is left.*did not answer.*workers='processes'"):
                future.result(20)
        for call in (runner.predict, runner.submit):
            with pytest.raises(WorkerError, match="no instance is left"):
                call(rows((ECHO,)))
        thread_models.go_on.set()


def test_a_call_can_have_a_time_of_its_own():
    with make() as runner:
        started_s = time.monotonic()
        with pytest.raises(WorkerTimeout, match="in 0.2 s"):
            runner.submit(rows((HANG,)), timeout_s=0.2).result(20)
        assert time.monotonic() - started_s < 5
        thread_models.go_on.set()


BUILD_TABLE = [
    (RAISE, EngineError, r"cpu:[01] failed while building faults.thread_models:make .*told to raise"),
    (EXIT, EngineError, r"cpu:[01] failed while building .*SystemExit"),
    (HANG, WorkerTimeout, r"cpu:[01] did not build its model in 0.3 s; if it needs longer, raise build_timeout_s"),
]


@pytest.mark.parametrize(("what", "error", "words"), BUILD_TABLE, ids=["raise", "exit", "hang"])
def test_fault_while_building(what, error, words, monkeypatch):
    monkeypatch.setattr(module, "CLOSE_GRACE_S", 0.2)
    runner = make(engine_options={"build": what}, build_timeout_s=0.3)
    with pytest.raises(error, match=words), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        runner.build_model()
    thread_models.go_on.set()
    with pytest.raises(RunnerClosedError, match="not built"):
        runner.predict(rows((ECHO,)))


def test_ctrl_c_in_predict():
    with make() as runner:
        timer = threading.Thread(target=_interrupt_when_it_hangs)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            runner.predict(rows((HANG,), (ECHO, 1)))
        timer.join()
        assert_right(runner)  # with the other instance
        thread_models.go_on.set()
        assert_right(runner)
        assert states(runner) == ["ready", "ready"]


def _interrupt_when_it_hangs():
    assert thread_models.hangs.wait(20)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


# ---- closing


def test_close_names_the_thread_that_is_stuck_and_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "CLOSE_GRACE_S", 0.3)
    runner = make()
    runner.build_model()
    pending = [runner.submit(rows((HANG,)))]
    assert thread_models.hangs.wait(20)
    pending += [runner.submit(rows((ECHO,))) for _ in range(3)]
    started_s = time.monotonic()
    with pytest.warns(RuntimeWarning, match=r"'ascend-parallel cpu:[01]' did not come back from the engine in 0.3 s"):
        runner.close()
    assert time.monotonic() - started_s < 5
    with pytest.raises(RunnerClosedError, match="closed while this call was under way"):
        pending[0].result(0)
    thread_models.go_on.set()


def test_close_while_others_call():
    for _ in range(10):
        runner = make()
        runner.build_model()
        runners.close_while_others_call(runner, assert_right)


def test_close_in_a_signal_handler():
    for _ in range(6):
        runner = make("cpu:0")
        runner.build_model()
        runners.close_in_a_signal_handler(runner, assert_right)


def test_a_call_that_cannot_be_queued_is_cancelled():
    runner = make()
    runner.build_model()
    backend = runner._backend
    completed = []
    call = runner._open(backend, rows((ECHO,)), None, in_place=True, on_done=completed.append)
    runner.close()
    with pytest.raises(RunnerClosedError, match="is closed"):
        backend.enqueue(call)
    assert completed == [call]
    with pytest.raises(RunnerClosedError, match="abandoned"):
        call.outputs()


def test_forgotten_runner_ends_its_threads():
    runner = make()
    runner.build_model()
    assert_right(runner)
    del runner
    gc.collect()  # what is left is checked by leaves_nothing


def test_a_program_that_just_ends_with_a_stuck_thread_ends_in_time(tmp_path):
    """No close, and a thread that never comes back: the end says which, and takes no longer than closing may."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import threading
            from ascend_parallel import ParallelPredictUtils
            from ascend_parallel.backends.threads import backend
            from faults import thread_models
            backend.CLOSE_GRACE_S = 0.5
            runner = ParallelPredictUtils("faults.thread_models:make", devices="cpu:0,1", workers="threads")
            runner.build_model()
            runner.submit(thread_models.rows((thread_models.HANG,)))
            thread_models.hangs.wait()
            print("the end")
            """
        )
    )
    tests = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])},
    )
    assert done.stdout == "the end\n"
    assert "did not come back from the engine in 0.5 s" in done.stderr
    assert done.returncode == 0


# ---- callbacks and forks


def test_predict_in_a_callback_or_in_a_model_is_refused():
    with make() as runner:
        found = concurrent.futures.Future()

        def call_back(_):
            try:
                found.set_result(runner.predict(rows((ECHO,))))
            except BaseException as error:
                found.set_exception(error)

        runner.submit(rows((SLEEP, 0.05))).add_done_callback(call_back)
        with pytest.raises(UsageError, match="in a future's callback or by a model.*use submit"):
            found.result(20)
        assert_right(runner)


def test_submit_and_close_in_a_callback():
    runner = make()
    runner.build_model()
    second = concurrent.futures.Future()
    runner.submit(rows((SLEEP, 0.02))).add_done_callback(lambda _: second.set_result(runner.submit(rows((ECHO, 5)))))
    assert second.result(20).result(20)["y"][0, 1] == 5
    closed = threading.Event()
    runner.submit(rows((SLEEP, 0.02))).add_done_callback(lambda _: (runner.close(), closed.set()))
    assert closed.wait(20)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt], ids=lambda error: error.__name__)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_callback_that_raises_harms_nobody(error, caplog):
    def call_back(_):
        raise error("from a callback")

    with make() as runner:
        for mark in range(5):
            future = runner.submit(rows((SLEEP, 0.01)))
            future.add_done_callback(call_back)
            assert_right(runner, mark)
            assert future.result(20)
        assert states(runner) == ["ready", "ready"]
    caplog.clear()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("child", ["ends", "predicts", "submits", "asks", "closes"])
def test_forked_child_does_no_harm(child):
    with make() as runner:
        assert_right(runner)
        acts = {
            "ends": lambda: 0,
            "predicts": lambda: _is_refused(lambda: runner.predict(rows((ECHO,)))),
            "submits": lambda: _is_refused(lambda: runner.submit(rows((ECHO,)))),
            "asks": lambda: _is_refused(runner.stats),
            "closes": runner.close,
        }
        assert _fork(acts[child]) == 0
        for mark in range(5):
            assert_right(runner, mark)


# ---- what does not go with threads


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"worker_python": sys.executable}, "worker_python is for worker processes.*leave worker_python out"),
        ({"share_weights": True}, "share_weights is for worker processes"),
        ({"max_retries": 0}, "max_retries is for worker processes"),
        ({"max_restarts": 3}, "max_restarts is for worker processes"),
        ({"workers": "fibres"}, "workers is 'fibres'; expected processes or threads"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_arguments_that_do_not_go_with_threads(options, words):
    with pytest.raises(UsageError, match=words):
        make(**options) if "workers" not in options else ParallelPredictUtils("a:b", devices="cpu", **options)


def test_an_engine_that_this_interpreter_lacks_is_refused_before_anything_starts(tmp_path, monkeypatch):
    path = tmp_path / "m.mindir"
    path.write_bytes(b"MindSpore" * 20)
    words = (
        r"workers='threads' runs the engine mslite in this interpreter, .*, which has no mindspore_lite; .*processes"
    )
    with pytest.raises(UsageError, match=words):
        ParallelPredictUtils(path, devices="cpu", workers="threads")


def test_one_after_the_other_on_many_threads_nothing_is_lost():
    """Each of thousands of calls from several threads gets its own answer, while some fail."""
    with make("cpu:0-3", chunk_size=2) as runner, concurrent.futures.ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda seed: _mix(runner, seed), range(6)))
    assert sum(results) == 6 * 300


def _mix(runner, seed):
    random = np.random.default_rng(seed)
    for number in range(300):
        x = rows(*[(ECHO, seed * 1000 + number + i / 10) for i in range(random.integers(1, 7))])
        if random.random() < 0.1:
            x["x"][random.integers(len(x["x"])), 0] = RAISE
            with pytest.raises(EngineError):
                runner.predict(x) if number % 2 else runner.submit(x).result(20)
        else:
            got = runner.predict(x) if number % 2 else runner.submit(x).result(20)
            np.testing.assert_array_equal(got["y"], x["x"])
    return 300


def test_threads_end_with_their_runner():
    with make():
        procs.wait_until(lambda: any(t.name == "ascend-parallel cpu:0" for t in threading.enumerate()), "a thread")
