"""Bad files, crashes, hangs, kills and full disks affect no other file, and --resume processes the rest."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest
from faults import procs

from ascend_parallel import DiskError, WorkerDied, parallel_map

from . import folders

DEVICES = ("--devices", "cpu:0,1")


def ten_thousand(folder):
    """Fill a folder with 10,000 files: 50 bad ones, 5 that crash, 2 that hang; the others are good."""
    names = {f"f{number:05d}.jpg" for number in range(10_000)}
    special = [("bad", 200, 3), ("crash", 2000, 500), ("hang", 5000, 1700)]
    for kind, every, first in special:
        for number in range(first, 10_000, every):
            names.discard(f"f{number:05d}.jpg")
            names.add(f"{kind}{number:05d}.jpg")
    return folders.fill(folder, names)


def test_ten_thousand_files(tmp_path):
    ten_thousand(tmp_path / "in")
    words = (folders.pipeline("describe"), "--input-dir", "in", "--output-dir", "out", "--batch-size", 4, *DEVICES)
    words = (*words, "--timeout-s", "0.5", "--output-format", "jsonl")
    done = folders.command(*words, cwd=tmp_path)
    assert done.returncode == 1, folders.stderr_of(done)
    assert "57 of 10,000 files failed:" in folders.stderr_of(done)
    assert "and 37 more: see out/manifest.jsonl" in folders.stderr_of(done)
    entries = folders.manifest(tmp_path / "out")
    assert len(entries) == 10_000
    failed = {name: entry["reason"] for name, entry in entries.items() if entry["status"] == "error"}
    assert {name for name in entries if not name.startswith("f")} == failed.keys()
    reasons = {"bad": "ValueError: cannot identify", "crash": "died twice.*SIGSEGV", "hang": "longer than 0.5 s twice"}
    for name, reason in failed.items():
        kind = re.match("[a-z]+", name)[0]
        assert re.search(reasons[kind], reason), f"{name}: {reason}"
    lines = [json.loads(text) for text in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert len(lines) == 9_943
    assert {command_line["file"] for command_line in lines} == entries.keys() - failed.keys()

    before = (tmp_path / "out/manifest.jsonl").read_bytes()
    again = folders.command(*words, "--resume", cwd=tmp_path)
    assert again.returncode == 1
    assert "nothing to do: all 10,000 files were processed before" in folders.stderr_of(again)
    assert "57 of 10,000 files failed:" in folders.stderr_of(again)
    assert (tmp_path / "out/manifest.jsonl").read_bytes() == before


@pytest.mark.parametrize("output_format", ["files", "jsonl"])
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_an_interrupted_run_is_completed(tmp_path, ending, output_format):
    names = {f"{number:04d}.jpg" for number in range(600)}
    folders.fill(tmp_path / "in", names)
    words = [folders.pipeline("describe"), "--input-dir", "in", "--output-dir", "out", *DEVICES]
    words += ["--output-format", output_format, "--option", "ms=2"]
    with folders.running(*words, cwd=tmp_path) as process:
        folders.wait_for_lines(tmp_path / "out/manifest.jsonl", 20)
        watch = procs.Watch(procs.children(process.pid))
        process.send_signal(ending)
        text = process.stderr.read().decode()
        code = process.wait(20)
        watch.wait_gone(10)
    assert code == (130 if ending == signal.SIGINT else -signal.SIGKILL)
    if ending == signal.SIGINT:
        assert "of 600 files are done; repeat the command with --resume to process the rest" in text
        assert "Traceback" not in text
    before = len(folders.manifest(tmp_path / "out"))
    assert 20 <= before < 600

    done = folders.command(*words, "--resume", cwd=tmp_path)
    assert done.returncode == 0, folders.stderr_of(done)
    assert f"{before} were done before" in folders.stderr_of(done)
    assert folders.manifest(tmp_path / "out").keys() == names
    if output_format == "files":
        assert folders.outputs(tmp_path / "out") == sorted(f"{name}.json" for name in names)
    else:
        lines = [json.loads(text)["file"] for text in (tmp_path / "out/results.jsonl").read_text().splitlines()]
        assert sorted(lines) == sorted(names)


def test_incomplete_files_of_a_killed_run_are_repaired(tmp_path):
    """An incomplete line in both files, a result without a line in the manifest, and a partial output."""
    names = {f"{number}.jpg" for number in range(6)}
    folders.fill(tmp_path / "in", names)
    words = [
        folders.pipeline("describe"),
        "--input-dir",
        "in",
        "--output-dir",
        "out",
        *DEVICES,
        "--output-format",
        "jsonl",
    ]
    assert folders.command(*words, cwd=tmp_path).returncode == 0
    out = tmp_path / "out"
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    results = (out / "results.jsonl").read_text()
    (out / "results.jsonl").write_text(results[:-9])
    (out / ".partial-1-1.json").write_text("{")
    done = folders.command(*words, "--resume", cwd=tmp_path)
    assert done.returncode == 0, folders.stderr_of(done)
    assert folders.manifest(out).keys() == names
    assert sorted(json.loads(text)["file"] for text in (out / "results.jsonl").read_text().splitlines()) == sorted(
        names
    )
    assert folders.outputs(out) == []


@pytest.mark.parametrize("kind", ["crash", "kill", "exit", "hang"])
def test_a_file_that_ends_its_worker_affects_no_other(tmp_path, kind):
    folders.fill(tmp_path / "in", [f"{number}.jpg" for number in range(30)])
    folders.fill(tmp_path / "in", [f"{kind}.jpg"])
    outcomes = {
        outcome.file: outcome
        for outcome in parallel_map(
            folders.pipeline("describe"), tmp_path / "in", devices="cpu:0", batch_size=4, timeout_s=0.5
        )
    }
    assert len(outcomes) == 31
    assert [outcome.file for outcome in outcomes.values() if not outcome.ok] == [f"{kind}.jpg"]


def test_a_folder_that_only_has_crashing_files_is_processed(tmp_path):
    folders.fill(tmp_path / "in", [f"crash{number}.jpg" for number in range(12)])
    outcomes = list(parallel_map(folders.pipeline("describe"), tmp_path / "in", devices="cpu:0,1", batch_size=2))
    assert [outcome.ok for outcome in outcomes] == [False] * 12
    assert all("SIGSEGV" in outcome.error for outcome in outcomes)


def test_a_pipeline_that_always_dies_is_an_error(tmp_path):
    folders.fill(tmp_path / "in", [f"crash{number}.jpg" for number in range(100)])
    with pytest.raises(WorkerDied, match=r"the last 40 workers ended while they processed files.*SIGSEGV"):
        list(parallel_map(folders.pipeline("describe"), tmp_path / "in", devices="cpu:0,1"))


def test_a_bad_file_affects_no_other_and_its_batch_is_run_again(tmp_path):
    names = [f"{number}.jpg" for number in range(8)] + ["bad.jpg"]
    folders.fill(tmp_path / "in", names)
    log = tmp_path / "log"
    options = {"log": str(log)}
    outcomes = parallel_map(
        folders.pipeline("describe"), tmp_path / "in", devices="cpu:0", batch_size=9, options=options
    )
    assert [outcome.file for outcome in outcomes if not outcome.ok] == ["bad.jpg"]
    check = ["1"]  # of a file that went well before
    assert log.read_text().split() == ["9"] + ["1"] * 9 + check


def test_a_run_without_devices_left_is_an_error_and_can_be_resumed(tmp_path):
    folders.fill(tmp_path / "in", [f"{number:03d}.jpg" for number in range(200)])
    flag = tmp_path / "flag"
    words = [
        folders.pipeline("dies_after"),
        "--input-dir",
        "in",
        "--output-dir",
        "out",
        *DEVICES,
        "--option",
        f"flag={flag}",
    ]
    with folders.running(*words, cwd=tmp_path) as process:
        folders.wait_for_lines(tmp_path / "out/manifest.jsonl", 10)
        flag.touch()
        text = process.stderr.read().decode()
        assert process.wait(60) == 4
    assert "no device is left" in text
    assert "of 200 files are done; repeat the command with --resume to process the rest" in text
    flag.unlink()
    done = folders.command(*words, "--resume", cwd=tmp_path)
    assert done.returncode == 0, folders.stderr_of(done)
    assert len(folders.manifest(tmp_path / "out")) == 200


# ---- disks


def test_a_full_disk_is_a_one_line_error_and_the_run_can_be_resumed(tmp_path):
    folders.fill(tmp_path / "in", ["ok1.jpg", "ok2.jpg", "x1.jpg", "x2.jpg"])
    flag = tmp_path / "room"
    words = [folders.pipeline("full_disk"), "--input-dir", "in", "--output-dir", "out", "--devices", "cpu:0"]
    words += ["--option", f"until={flag}"]
    done = folders.command(*words, cwd=tmp_path)
    assert done.returncode == 6
    (text,) = folders.stderr_of(done).splitlines()
    assert text.startswith("ascend-parallel: error: ")
    assert re.search(r"x[12].jpg.json could not be written: No space left on device", text)
    assert "--resume" in text
    assert folders.manifest(tmp_path / "out").keys() == {"ok1.jpg", "ok2.jpg"}
    flag.touch()
    done = folders.command(*words, "--resume", cwd=tmp_path)
    assert done.returncode == 0, folders.stderr_of(done)
    assert len(folders.manifest(tmp_path / "out")) == 4


def test_a_manifest_on_a_full_disk_is_an_error(tmp_path):
    folders.fill(tmp_path / "in", [f"{number:03d}.jpg" for number in range(300)])
    outcomes = parallel_map(
        *(folders.pipeline("describe"), tmp_path / "in"),
        **{"devices": "cpu:0", "output_dir": tmp_path / "out", "options": {"ms": 5}},
    )
    next(outcomes)
    (fd,) = [fd for fd in os.listdir("/proc/self/fd") if _is_open_as(fd, tmp_path / "out/manifest.jsonl")]
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, int(fd))
    os.close(full)
    with pytest.raises(DiskError, match=r"manifest.jsonl could not be written: No space left on device"):
        list(outcomes)


def _is_open_as(fd, path):
    link = f"/proc/self/fd/{fd}"
    return os.path.exists(link) and os.readlink(link) == str(path)


def test_an_output_folder_that_disappears_is_an_error(tmp_path):
    folders.fill(tmp_path / "in", [f"{number:03d}.jpg" for number in range(300)])
    outcomes = parallel_map(
        *(folders.pipeline("describe"), tmp_path / "in"),
        **{"devices": "cpu:0", "output_dir": tmp_path / "out", "options": {"ms": 5}},
    )
    next(outcomes)
    (tmp_path / "out").rename(tmp_path / "elsewhere")  # atomic: nothing can be written in between
    with pytest.raises(DiskError, match="could not be written: No such file or directory"):
        list(outcomes)


IN_A_SMALL_DISK = """
mkdir -p out && mount -t tmpfs -o size=64k tmpfs out || exit 99
"$@"; first=$?
mount -o remount,size=64m out
"$@" --resume || exit 98
wc -l < out/manifest.jsonl
exit $first
"""


def test_a_disk_that_is_actually_full(tmp_path):
    names = [f"{number:03d}.jpg" for number in range(200)]
    folders.fill(tmp_path / "in", names)
    words = folders.command_line(folders.pipeline("describe"), "--input-dir", "in", "--output-dir", "out", *DEVICES)
    prefix = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not allow to mount a small disk (unshare)")
    done = subprocess.run(
        [*prefix, "sh", "-c", IN_A_SMALL_DISK, "sh", *words], cwd=tmp_path, capture_output=True, text=True, timeout=110
    )
    if done.returncode == 99:
        pytest.skip(f"this machine does not allow to mount a small disk: {done.stderr}")
    assert done.returncode == 6, done.stderr
    assert "No space left on device" in done.stderr
    assert done.stdout.split() == ["200"]


# ---- persistent errors


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_process_in_which_every_file_fails_is_replaced(tmp_path, batch_size):
    names = [f"{number:04d}.jpg" for number in range(600)]
    names[300] = "poison.jpg"
    names[400] = "bad.jpg"
    folders.fill(tmp_path / "in", names)
    order = [tmp_path / "in" / name for name in names]
    outcomes = list(parallel_map(folders.pipeline("sticky"), order, devices="cpu:0,1", batch_size=batch_size))
    failed = [os.path.basename(outcome.path) for outcome in outcomes if not outcome.ok]
    assert failed == ["poison.jpg", "bad.jpg"]
    assert len(outcomes) == 600


def test_many_bad_files_in_a_row_are_failures_of_the_files(tmp_path):
    names = [f"a{number}.jpg" for number in range(50)] + [f"bad{number}.jpg" for number in range(300)]
    folders.fill(tmp_path / "in", names)
    outcomes = list(parallel_map(folders.pipeline("describe"), tmp_path / "in", devices="cpu:0,1", batch_size=4))
    assert [outcome.ok for outcome in outcomes] == [True] * 50 + [False] * 300
    assert all(outcome.error.startswith("ValueError: cannot identify") for outcome in outcomes[50:])


def test_files_that_become_slow_cause_no_timeouts_and_keep_their_order(tmp_path):
    """Hundreds of quick failures make large bundles. Then each file takes a third of the time limit."""
    names = [f"bad{number:03d}.jpg" for number in range(400)] + [f"f{number:02d}.jpg" for number in range(16)]
    folders.fill(tmp_path / "in", names)
    options = {"ms": 100, "log": str(tmp_path / "log")}
    outcomes = list(
        parallel_map(
            *(folders.pipeline("slow_when_good"), tmp_path / "in"),
            **{"devices": "cpu:0", "timeout_s": 0.3, "batch_size": 2, "options": options},
        )
    )
    assert [outcome.file for outcome in outcomes] == names
    assert [outcome.ok for outcome in outcomes] == [False] * 400 + [True] * 16
    assert "longer than" not in "".join(outcome.error for outcome in outcomes)
    assert (tmp_path / "log").read_text().split() == ["2"] * 8, "each batch was run once, as a whole"
