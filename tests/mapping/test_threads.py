"""Model files on threads: the same outcomes as worker processes give, and what runs in processes only."""

import json

import models
import numpy as np
import pytest

from ascend_parallel import UsageError, parallel_map

from . import folders


@pytest.fixture
def rows(tmp_path):
    """A folder of rows for models.linear, and one file that cannot be read."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for i in range(30):
        np.save(folder / f"{i:02}.npy", np.full(8, i, np.float32))
    (folder / "bad.npy").write_bytes(b"no array")
    return folder


def outcomes(rows, workers):
    found = parallel_map(
        str(models.linear()), rows, devices="cpu:0,1", instances_per_device=2, batch_size=4, workers=workers
    )
    return {outcome.file: outcome for outcome in found}


def test_threads_give_what_processes_give(rows):
    wanted, found = outcomes(rows, "processes"), outcomes(rows, "threads")
    assert found.keys() == wanted.keys()
    for file, outcome in found.items():
        assert outcome.ok == wanted[file].ok == (file != "bad.npy")
        if outcome.ok:
            np.testing.assert_array_equal(outcome.result["y"], wanted[file].result["y"])
        assert outcome.device in ("cpu:0", "cpu:1")


def test_the_command(rows, tmp_path):
    words = [str(models.linear()), "--input-dir", "rows", "--output-dir", "out", "--output-format", "jsonl"]
    done = folders.command(*words, "--workers", "threads", "--devices", "cpu:0,1", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 30
    assert b"1 of 31 files failed" in done.stderr


def test_a_pipeline_runs_in_processes_only(rows):
    with pytest.raises(
        UsageError, match="the engine pipeline runs in worker processes only.*leave out workers='threads'"
    ):
        parallel_map("my_module:make", rows, devices="cpu", workers="threads")
