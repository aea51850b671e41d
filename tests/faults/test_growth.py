"""Nothing grows: descriptors, memory and processes are the same after a thousand calls, right or failed."""

import gc
import resource

import numpy as np
import pytest

from ascend_parallel import EngineError, ShapeError

from . import acting, procs, runners

pytestmark = [pytest.mark.usefixtures("leaves_nothing"), pytest.mark.timeout(120)]

CALLS = 1000
MIB = 1 << 20


def test_a_thousand_calls_leave_no_trace():
    with runners.simulated() as runner:
        for mark in range(50):  # first ones: plans, segments, interpreters' own growth
            runners.assert_right(runner, mark, rows=1 + mark % 3)
        before = _measure(runner)
        for mark in range(CALLS):
            runners.assert_right(runner, mark, rows=1 + mark % 3)
        after = _measure(runner)
    _assert_same(before, after)


def test_a_thousand_failed_calls_leave_no_trace():
    with runners.acting_runner() as runner:
        x = {"x": acting.rows((acting.ECHO,), (acting.RAISE,))}
        for _ in range(50):
            _fail(runner, x)
        before = _measure(runner)
        for _ in range(CALLS // 2):
            _fail(runner, x)
        after = _measure(runner)
    _assert_same(before, after)


def _fail(runner, x):
    with pytest.raises(EngineError):
        runner.predict(x)
    with pytest.raises(ShapeError):
        runner.predict({})


def _measure(runner):
    runner.predict({"x": np.zeros((2, 3))})  # the last call's late answers are in, too
    gc.collect()
    return {
        "fds": procs.open_fds(),
        "segments": procs.mapped_segments(),
        "shared": runner.stats()["shared_memory"],
        "pids": runners.pids(runner),
        "rss": [procs.rss_bytes(pid) for pid in runners.pids(runner)],
        "worker_fds": [procs.open_fds(pid) for pid in runners.pids(runner)],
    }


def _assert_same(before, after):
    for worker, (was, grown) in enumerate(zip(before.pop("rss"), after.pop("rss"), strict=True)):
        assert grown < was + 4 * MIB, worker
    assert after == before


def test_restarts_leave_no_descriptors():
    with runners.acting_runner("cpu:0", max_retries=0, max_restarts=99) as runner:
        runners.assert_acts(runner)
        before = procs.open_fds()
        for _ in range(3):
            with pytest.raises(Exception, match="SIGKILL"):
                runner.predict({"x": acting.rows((acting.KILL,))})
            runners.assert_acts(runner)
        procs.wait_until(lambda: procs.open_fds() <= before, "descriptors of dead workers closed")


def test_runners_that_are_closed_and_kept_leave_nothing():
    before = procs.open_fds()
    kept = []
    for mark in range(5):
        with runners.simulated("simulated:0") as runner:
            runners.assert_right(runner, mark)
        kept.append(runner)
        assert procs.mapped_segments() == 0
        procs.wait_until(lambda: procs.open_fds() == before, "all descriptors closed")


# ---- results belong to the caller


def test_kept_results_keep_their_values_and_dropped_ones_free_memory():
    with runners.simulated() as runner:
        kept = []
        for mark in range(50):
            x = np.full((4, 4096), mark, np.float64)
            kept.append(runner.predict({"x": x})["output"])
        for _ in range(200):
            runner.predict({"x": np.full((4, 4096), -1.0)})
        _assert_marks(kept)
        held = runner.stats()["shared_memory"]["leased_bytes"]
        assert held >= 49 * kept[0].nbytes
        del kept[10:]
        assert runner.stats()["shared_memory"]["leased_bytes"] <= held - 39 * kept[0].nbytes
    _assert_marks(kept)
    kept.clear()
    gc.collect()
    assert procs.mapped_segments() == 0  # though the closed runner is still there


def _assert_marks(kept):
    for mark, array in enumerate(kept):
        np.testing.assert_array_equal(array, float(mark))


def test_results_can_be_written_to_and_are_nobody_elses():
    with runners.simulated() as runner:
        first = runner.predict({"x": np.zeros((4, 4096))})["output"]
        first += 1
        second = runner.predict({"x": np.zeros((4, 4096))})["output"]
        np.testing.assert_array_equal(first, 1.0)
        np.testing.assert_array_equal(second, 0.0)


def test_more_results_are_kept_than_descriptors_allowed():
    """Of a model whose output shapes are never known beforehand: the worker's own segments carry them."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    with runners.acting_runner("cpu:0", {"shrink": True}, max_retries=0) as runner:
        resource.setrlimit(resource.RLIMIT_NOFILE, (procs.open_fds() + 40, usual[1]))
        try:
            kept = []
            for mark in range(100):
                x = np.zeros((2 + mark % 2, 10_000))
                x[:, 2] = mark
                kept.append(runner.predict({"x": x})["y"])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)
        for mark, array in enumerate(kept):
            assert array.shape == (1 + mark % 2, 10_000)
            np.testing.assert_array_equal(array[:, 2], float(mark))
