"""The commands that measure the README's figures run, and measure what they should."""

import os
import subprocess
import sys
import time
from pathlib import Path

import measure_pictures
import measure_steps
import numpy as np
from commands import TINY
from measure_pictures import MS_PER_ROW, draw_apart, draw_one_by_one, draw_together, open_pipeline


def run(module, *arguments):
    done = subprocess.run(
        [sys.executable, module.__file__, *map(str, arguments)],
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_steps_of_each_layout_are_measured():
    output = run(measure_steps, TINY, "--steps", 3, "--rounds", 1)
    for layout in measure_steps.LAYOUTS:
        assert layout.name in output
    assert "largest difference of a pixel between the pictures: " in output


def test_a_step_is_the_engine_s_time_and_the_overhead():
    class Runner:
        def __init__(self):
            self.workers = {"cpu:0": {"busy_s": 0.0}, "cpu:1": {"busy_s": 0.0}}

        def stats(self):
            return {"workers": self.workers}

    runner = Runner()
    watch = measure_steps.StepWatch(runner)
    watch.note()
    runner.workers = {"cpu:0": {"busy_s": 0.25}, "cpu:1": {"busy_s": 0.5}}
    watch.note()
    (step,) = watch.steps()
    assert step.busy_s == 0.5
    assert step.step_s > 0


def test_the_memory_of_a_process_is_read():
    allocated = np.ones(50 << 20, np.uint8)
    memory = measure_steps.read_memory(os.getpid())
    assert allocated.nbytes < memory.anonymous <= memory.rss < 100 * allocated.nbytes
    assert memory.pss <= memory.rss


def test_methods_to_distribute_pictures_predict_the_expected_rows():
    """On simulated devices: a picture has two rows per step, which one device computes one after the other."""
    case = measure_pictures.own_cases()[0]
    with open_pipeline(case, "cpu:0,1", 2) as both, open_pipeline(case, "cpu:0", 2) as one:
        started_s = time.perf_counter()
        apart = draw_apart([one], 7.5, 1)
        assert apart.first_s == apart.all_s <= time.perf_counter() - started_s
        assert apart.all_s >= 4 * MS_PER_ROW / 1e3
        single = draw_one_by_one(both, 7.5, 2)
        assert single.all_s >= 4 * MS_PER_ROW / 1e3 and single.first_s < single.all_s
        assert draw_together(both, 7.5, 2).all_s >= 4 * MS_PER_ROW / 1e3


def test_pictures_of_a_folder_are_measured():
    output = run(measure_pictures, TINY, "--steps", 1, "--rounds", 1, "--pictures", 1, "--pictures", 3)
    assert "s to the first picture / to all" in output
    assert Path(TINY).name in output
    assert all(method in output for method in ("one by one", "together", "apart"))
