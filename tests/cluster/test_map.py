"""``ascend-parallel map --cluster`` and ``parallel_map(cluster=...)``: a folder of files over three hosts."""

import json
import re
import threading

import numpy as np
import pytest
from mapping import folders
from models import linear

from ascend_parallel import parallel_map

pytestmark = pytest.mark.timeout(120)
FILES = 60


def names(count=FILES):
    return [f"in/{number:03d}.jpg" for number in range(count)]


def run(cluster, cwd, pipeline, *words):
    told = ["--input-dir", "in", "--output-dir", "out", "--devices", "cpu:*", "--cluster", f"ray={cluster.address}"]
    return folders.command(pipeline, *told, *words, cwd=cwd)


def test_a_folder_over_three_hosts(cluster, tmp_path):
    folders.fill(tmp_path, names())
    done = run(cluster, tmp_path, folders.pipeline("describe"))
    assert done.returncode == 0, folders.stderr_of(done)
    entries = folders.manifest(tmp_path / "out")
    assert len(entries) == FILES and {entry["status"] for entry in entries.values()} == {"ok"}
    hosts = {entry["device"].partition("/")[0] for entry in entries.values()}
    assert len(hosts) == 3 and all(re.fullmatch(r".+/cpu:[01]", entry["device"]) for entry in entries.values())
    outputs = {path.name for path in (tmp_path / "out").glob("*.json")}
    assert outputs == {f"{name[3:]}.json" for name in names()}
    again = run(cluster, tmp_path, folders.pipeline("describe"), "--resume")
    assert again.returncode == 0 and "nothing to do" in folders.stderr_of(again)


def test_bad_files_cost_only_themselves(cluster, tmp_path):
    """One raises, one ends its worker."""
    folders.fill(tmp_path, [*names(20), "in/raise.jpg", "in/die.jpg"])
    done = run(cluster, tmp_path, f"{cluster.models}/pipelines_for_map.py:picky", "--num-devices", "4")
    assert done.returncode == 1, folders.stderr_of(done)
    entries = folders.manifest(tmp_path / "out")
    assert {name for name, entry in entries.items() if entry["status"] != "ok"} == {"raise.jpg", "die.jpg"}
    assert "its worker died twice" in entries["die.jpg"]["reason"]
    assert "ValueError: a bad file" in entries["raise.jpg"]["reason"]
    assert len(entries) == 22


def test_a_node_is_removed_in_the_middle(cluster, tmp_path, monkeypatch):
    folders.fill(tmp_path, names(200))
    monkeypatch.chdir(tmp_path)
    seen = []
    gone = threading.Event()
    for outcome in parallel_map(
        f"{cluster.models}/pipelines_for_map.py:slow",
        "in",
        devices="cpu:*",
        cluster=f"ray={cluster.address}",
        output_dir="out",
        output_format="jsonl",
    ):
        assert outcome.ok, outcome.error
        seen.append(outcome.file)
        if len(seen) == 20 and not gone.is_set():
            cluster.remove()
            gone.set()
    assert seen == [name[3:] for name in names(200)], "in order, nothing lost, nothing doubled"
    assert len(folders.manifest("out")) == 200
    lines = [json.loads(line)["file"] for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert sorted(lines) == sorted(seen)


def test_a_model_file_in_threads(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for number in range(12):
        np.save(tmp_path / f"in/{number:02d}.npy", np.full(8, number, np.float32))
    found = list(
        parallel_map(str(linear()), "in", devices="cpu:*", cluster=f"ray={cluster.address}", workers="threads")
    )
    assert [outcome.file for outcome in found] == [f"{number:02d}.npy" for number in range(12)]
    assert all(outcome.result["y"].shape == (5,) for outcome in found)


@pytest.mark.parametrize(
    "words, part",
    [
        (["--devices", "cpu:0"], "devices is 'cpu:0', but Ray chooses the devices of a cluster: write cpu:*"),
        (["--cluster", "dask"], "cluster is 'dask'; expected ray, or ray=ADDRESS"),
        (["--cluster", "ray=127.0.0.1:1"], "there is no Ray cluster at '127.0.0.1:1'"),
        (["--num-devices", "0"], "--num-devices is 0; expected a whole number, at least 1, or '*'"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(cluster, tmp_path, words, part):
    folders.fill(tmp_path, names(2))
    done = run(cluster, tmp_path, folders.pipeline("describe"), *words)
    assert done.returncode == 2
    (line,) = [line for line in folders.stderr_of(done).splitlines() if "error:" in line]
    assert part in line
    assert not list(tmp_path.glob("out/*.json"))


def test_a_folder_that_hosts_do_not_see_is_refused(cluster, tmp_path, monkeypatch):
    from ascend_parallel.mapping import on_cluster

    folders.fill(tmp_path, names(2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(on_cluster, "MANIFEST", "elsewhere")
    with pytest.raises(ValueError, match="it does not see .*elsewhere: the files of a run must be on storage that all"):
        list(
            parallel_map(
                folders.pipeline("describe"),
                "in",
                devices="cpu:*",
                cluster=f"ray={cluster.address}",
                output_dir="out",
            )
        )
