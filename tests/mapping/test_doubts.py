"""Failures before any file has succeeded: a worker that is broken is found out, and files are not blamed for it."""

import pytest

from ascend_parallel import parallel_map
from ascend_parallel.mapping.doubts import Doubts
from ascend_parallel.mapping.outcome import Outcome

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
