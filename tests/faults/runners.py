"""Runners for the tests of faults, small and quick, and the questions asked of all of them."""

import concurrent.futures
import contextlib
import signal
import threading

import numpy as np

from ascend_parallel import ParallelPredictUtils, RunnerClosedError

from . import acting, procs


def simulated(devices="simulated:0,1", fault=None, **options):
    """Return a runner, not built yet, on the simulated engine; ``fault`` is a dict of its options."""
    return ParallelPredictUtils(
        "simulated", engine="simulated", devices=devices, engine_options=fault or {}, **{"max_retries": 0, **options}
    )


def acting_runner(devices="cpu:0,1", model_options=None, **options):
    """Return a runner, not built yet, of the model that does what its input says (acting.py)."""
    return ParallelPredictUtils(acting.MODEL, devices=devices, engine_options=model_options or {}, **options)


def batch(mark=0.0, rows=4):
    """Return an input whose values tell which it is."""
    return {"x": mark * 1000 + np.arange(rows * 3, dtype=np.float64).reshape(rows, 3)}


def assert_right(runner, mark=7.0, rows=4):
    """Check that a call gets its own answer."""
    x = batch(mark, rows)
    (answer,) = runner.predict(x).values()
    np.testing.assert_array_equal(answer, x["x"])


def assert_acts(runner, mark=5.0):
    """The same, for the acting model; returns the processes that answered."""
    x = acting.rows(*[(acting.ECHO, 0, mark + i) for i in range(4)])
    answer = runner.predict({"x": x})
    np.testing.assert_array_equal(answer["y"], x)
    return set(answer["pid"].tolist())


def restarts(runner) -> int:
    """Return how many workers were started again."""
    return sum(worker["restarts"] for worker in runner.stats()["workers"].values())


def pids(runner) -> list[int]:
    """Return the workers' processes, of those that have one."""
    return [worker["pid"] for worker in runner.stats()["workers"].values() if worker["pid"]]


def states(runner) -> list[str]:
    """Return the workers' states."""
    return [worker["state"] for worker in runner.stats()["workers"].values()]


def wait_ready(runner, timeout_s=20.0):
    """Wait until no worker is about to start: that needs no call, so there is no event for it."""
    procs.wait_until(lambda: "starting" not in states(runner), "all workers ready or out", timeout_s)


def call_until_closed(call):
    """Repeat a call until its runner is closed; any other error is raised."""
    with contextlib.suppress(RunnerClosedError):
        while True:
            call()


def close_while_others_call(runner, check):
    """Close a runner that was built, while three threads call ``check(runner, mark)``: each is told, at once."""
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        callers = [pool.submit(call_until_closed, lambda mark=10 * n: check(runner, mark)) for n in range(3)]
        check(runner, 7.0)
        runner.close()
        for caller in callers:
            caller.result(20)


def close_in_a_signal_handler(runner, check):
    """Close a runner that was built in the handler of a signal, which hits a thread that calls ``check(runner, mark)``.

    The handler may run while its own thread is in the middle of an update.
    """
    usual = signal.signal(signal.SIGUSR1, lambda *_: runner.close())
    timer = threading.Timer(0.02, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
    timer.start()
    try:
        call_until_closed(lambda: check(runner, 1))
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, usual)
