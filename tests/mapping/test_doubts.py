"""Failures before any file has succeeded: a worker that is broken is found out, and files are not blamed for it."""

import pytest

from ascend_parallel import parallel_map
from ascend_parallel.mapping.doubts import Doubts
from ascend_parallel.mapping.outcome import Outcome
from ascend_parallel.worker.engines import EngineBroken
from ascend_parallel.worker.pipelines.batches import BatchRunner
from ascend_parallel.worker.pipelines.payload import FAILED, SUSPECT, UNTRIED

from . import folders


def run(tmp_path, pipeline, names, devices="cpu:0", **options):
    """Return the names of the files that failed, and the number of processes."""
    folders.fill(tmp_path / "in", names)
    log = tmp_path / "log"
    outcomes = list(
        parallel_map(
            *(folders.pipeline(pipeline), tmp_path / "in"), devices=devices, options={"log": str(log), **options}
        )
    )
    assert sorted(outcome.file for outcome in outcomes) == sorted(names)
    processes = len(log.read_text().splitlines()) if log.exists() else None
    return sorted(outcome.file for outcome in outcomes if not outcome.ok), processes


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("good", [1, 3, 40])
def test_a_first_file_that_breaks_its_process_is_the_only_one_that_fails(tmp_path, good, batch_size):
    names = ["0-poison.jpg", *(f"{number:02d}.jpg" for number in range(1, good + 1))]
    folders.fill(tmp_path / "in", names)
    (tmp_path / "in/0-poison.jpg").rename(tmp_path / "in/poison.jpg")
    ordered = [tmp_path / "in/poison.jpg", *(tmp_path / "in" / name for name in names[1:])]
    outcomes = list(parallel_map(folders.pipeline("sticky"), ordered, devices="cpu:0", batch_size=batch_size))
    assert [outcome.path.rpartition("/")[2] for outcome in outcomes if not outcome.ok] == ["poison.jpg"]


def test_a_device_that_is_broken_from_the_start_costs_no_file(tmp_path):
    names = [f"{number:02d}.jpg" for number in range(12)]
    failed, _ = run(tmp_path, "broken_device", names, devices="cpu:0,1")
    assert failed == []


def test_files_that_are_bad_before_the_first_good_one_fail_and_cost_few_processes(tmp_path):
    names = [f"bad{number:03d}.jpg" for number in range(30)] + [f"x{number}.jpg" for number in range(5)]
    failed, processes = run(tmp_path, "counts_processes", names)
    assert failed == names[:30]
    assert processes <= 8


def test_a_folder_of_bad_files_only_is_reported_with_few_processes(tmp_path):
    names = [f"bad{number:03d}.jpg" for number in range(200)]
    failed, processes = run(tmp_path, "counts_processes", names)
    assert failed == names
    assert processes <= 10


def test_a_single_bad_file_is_tried_in_one_process(tmp_path):
    failed, processes = run(tmp_path, "counts_processes", ["bad.jpg"])
    assert failed == ["bad.jpg"]
    assert processes == 1


def test_doubts_end(tmp_path):
    doubts = Doubts()
    failure = Outcome("x", "x", False, "ValueError")
    assert not doubts.hold(0, failure, is_certain=True)
    for position in range(64):
        assert doubts.hold(position, failure, is_certain=False)
    assert doubts.are_too_many
    assert doubts.fresh_after == 64
    assert len(doubts.take()) == 64
    assert not doubts.hold(64, failure, is_certain=False)


def batch_runner(pipeline):
    return BatchRunner(pipeline, {"batch_size": 1, "keep": "values"})


def always_broken(paths):
    raise RuntimeError("CUDA error")


def test_a_file_is_no_cause_where_nothing_went_well_before():
    runner = batch_runner(always_broken)
    ((status, _, reason),) = runner.run([("x.jpg", "x.jpg")], "good.jpg", 2)
    assert status == SUSPECT
    assert reason.startswith("RuntimeError: CUDA error")
    with pytest.raises(EngineBroken):
        runner.run([("y.jpg", "y.jpg")], "good.jpg", 2)


def test_a_worker_without_a_success_gives_up_after_so_many_failures():
    runner = batch_runner(always_broken)
    files = [(f"{number}.jpg", f"{number}.jpg") for number in range(5)]
    assert [status for status, _, _ in runner.run(files, None, 3)] == [FAILED] * 3 + [UNTRIED] * 2
    assert runner.last_good is None
