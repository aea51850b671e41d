"""Worker processes that are started before their runner."""

import os
import signal
import sys

import numpy as np
from faults import procs

from ascend_parallel import ParallelPredictUtils
from ascend_parallel.backends.processes.start import StartedAhead
from ascend_parallel.backends.worker_environment import environment
from ascend_parallel.backends.worker_spec import WorkerSpec


def spec(label="cpu:0", python=sys.executable, environ=None):
    return WorkerSpec("cpu:0", label, python, environment(1) if environ is None else environ, {})


def runner(started):
    made = ParallelPredictUtils("sim", engine="simulated", devices="simulated:0,1")
    made._started_ahead = started
    return made


def test_a_runner_takes_them_and_those_left_are_ended(leaves_nothing):
    specs = ParallelPredictUtils("sim", engine="simulated", devices="simulated:0,1")._specs
    with StartedAhead(specs[0].python, specs[0].environ, ["simulated:0", "simulated:1", "simulated:9"]) as started:
        pids = procs.wait_until(lambda: len(procs.children()) == 3 and set(procs.children()), "three processes")
        with runner(started) as built:
            assert {worker["pid"] for worker in built.stats()["workers"].values()} < pids
            x = np.arange(4, dtype=np.float32)[:, np.newaxis]
            np.testing.assert_array_equal(built.predict({"x": x})["output"], x)


def test_one_that_died_meanwhile_is_reported_as_any_other(leaves_nothing):
    specs = ParallelPredictUtils("sim", engine="simulated", devices="simulated:0,1")._specs
    with StartedAhead(specs[0].python, specs[0].environ, ["simulated:0"]) as started:
        [pid] = procs.wait_until(procs.children, "the process")
        os.kill(pid, signal.SIGKILL)
        procs.Watch([pid]).wait_gone(5)
        try:
            runner(started).build_model()
        except Exception as error:
            assert "the worker of simulated:0 died while building (SIGKILL" in str(error)
        else:
            raise AssertionError("it was not noticed")


def test_only_what_was_started_for_the_very_same_spec_is_taken(leaves_nothing):
    with StartedAhead(sys.executable, environment(1), ["cpu:0"]) as started:
        assert started.take(spec(label="cpu:1")) is None
        assert started.take(spec(python="/usr/bin/python3")) is None
        assert started.take(spec(environ={})) is None
        taken = started.take(spec())
        assert taken is not None
        assert started.take(spec()) is None
        taken.kill()


def test_what_cannot_be_started_is_left_to_the_runner(leaves_nothing, tmp_path):
    not_python = tmp_path / "python"
    not_python.write_text("")
    with StartedAhead(str(not_python), environment(1), ["cpu:0"]) as started:
        assert started.take(spec(python=str(not_python))) is None
