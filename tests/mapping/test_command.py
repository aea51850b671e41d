"""The command as a user runs it: inputs, usage errors, messages, and the report."""

import os
import pty
import re
import subprocess
import sys
from types import SimpleNamespace

import matplotlib.axes
import numpy as np
import PIL.Image
import pytest

from ascend_parallel import cli
from ascend_parallel.mapping.counts import RunCounts
from ascend_parallel.mapping.outcome import Outcome
from ascend_parallel.mapping.report import Report

from . import folders

USUAL = ["--input-dir", "in", "--output-dir", "out", "--devices", "cpu:0"]
DESCRIBE = folders.pipeline("describe")


@pytest.fixture
def inputs(tmp_path):
    folders.fill(tmp_path, ["in/1.jpg", "in/2.png", "in/.hidden.jpg", "in/sub/3.jpg", "model.onnx", "old/x.jpg.json"])
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08 no model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "list").write_text("\n\n")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/manifest.jsonl").write_text("what is this\n")
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines/results.jsonl").write_text("precious\n")
    return tmp_path


#: What is wrong -> the arguments, a part of the message.
MISTAKES = {
    "no inputs": ([DESCRIBE, "--output-dir", "out"], "use --input-dir DIR or --input-list FILE"),
    "no such folder": (
        [DESCRIBE, "--input-dir", "no", "--output-dir", "out"],
        "--input-dir no: there is no such folder",
    ),
    "nothing in it": ([DESCRIBE, "--input-dir", "empty", "--output-dir", "out"], "no file in empty matches '*'"),
    "nothing matches": ([DESCRIBE, *USUAL, "--input-glob-pattern", "*.gif"], "matches '*.gif'"),
    "slash in pattern": ([DESCRIBE, *USUAL, "--input-glob-pattern", "**/*.jpg"], "contains a slash"),
    "outputs into inputs": (
        [DESCRIBE, "--input-dir", "in", "--output-dir", "in/"],
        "outputs would be mistaken for inputs; name another folder",
    ),
    "no such list": ([DESCRIBE, "--input-list", "no", "--output-dir", "out"], "list of files no could not be read"),
    "empty list": ([DESCRIBE, "--input-list", "list", "--output-dir", "out"], "the list of files list is empty"),
    "list and pattern": (
        [DESCRIBE, "--input-list", "list", "--recursive", "--output-dir", "out"],
        "apply to a folder",
    ),
    "no kind": (["whatever", *USUAL], "'whatever' is of an unknown kind; expected 'module:factory'"),
    "no such file": (["no.py:make", *USUAL], "there is no file no.py"),
    "no such configuration": (["paddlex:no.yaml", *USUAL], "there is no configuration file no.yaml"),
    "no such model": (["no.onnx", *USUAL], "there is no model file no.onnx"),
    "preprocess of no model": ([DESCRIBE, *USUAL, "--preprocess", "a:b"], "preprocess goes with model files only"),
    "preprocess no function": (["model.onnx", *USUAL, "--preprocess", "a"], "preprocess is 'a'; expected 'module:"),
    "engine option": (["model.onnx", *USUAL, "--option", "thread=1"], "has no option 'thread'"),
    "option form": ([DESCRIBE, *USUAL, "--option", "a"], "--option 'a' is not of the form NAME=VALUE"),
    "option device": ([DESCRIBE, *USUAL, "--option", "device=cpu"], "the option device is set for each worker"),
    "batch size": ([DESCRIBE, *USUAL, "--batch-size", "0"], "--batch-size is 0; expected a whole number"),
    "instances": ([DESCRIBE, *USUAL, "--instances-per-device", "0"], "--instances-per-device is 0"),
    "timeout": ([DESCRIBE, *USUAL, "--timeout-s", "0"], "--timeout-s is 0"),
    "devices": ([DESCRIBE, *USUAL[:-1], "tpu:0"], "unknown device type 'tpu'"),
    "format": ([DESCRIBE, *USUAL, "--output-format", "xml"], "--output-format is 'xml'; expected files or jsonl"),
    "nothing to resume": ([DESCRIBE, *USUAL, "--resume"], "there is nothing to resume in out"),
    "retry without resume": ([DESCRIBE, *USUAL, "--retry-failed"], "--retry-failed needs resume"),
    "another's manifest": ([DESCRIBE, *USUAL, "--output-dir", "theirs"], "not a manifest of this program"),
    "another's results": (
        [DESCRIBE, *USUAL, "--output-dir", "lines", "--output-format", "jsonl"],
        "lines/results.jsonl exists without a manifest.jsonl",
    ),
    "output below a file": ([DESCRIBE, *USUAL, "--output-dir", "model.onnx/x"], "model.onnx is not a folder"),
    "quiet and verbose": ([DESCRIBE, *USUAL, "--quiet", "--verbose"], "choose one"),
    "report suffix": ([DESCRIBE, *USUAL, "--report", "r.pdf"], "does not end in .html or .png"),
    "report folder": (
        [DESCRIBE, *USUAL, "--report", "no/r.png"],
        "--report no/r.png: there is no folder no; make",
    ),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_usage_errors_are_one_line_before_anything_is_started_or_written(inputs, words, message, monkeypatch, capsys):
    before = sorted(str(path) for path in inputs.rglob("*"))
    monkeypatch.chdir(inputs)
    monkeypatch.setattr("sys.argv", ["ascend-parallel", "map", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (text,) = capsys.readouterr().err.splitlines()
    assert text.startswith("ascend-parallel: error: ")
    assert message in text
    assert sorted(str(path) for path in inputs.rglob("*")) == before


def test_a_folder_with_outputs_needs_resume_and_the_same_settings(inputs):
    assert folders.command(DESCRIBE, *USUAL, cwd=inputs).returncode == 0
    done = folders.command(DESCRIBE, *USUAL, cwd=inputs)
    assert done.returncode == 2
    assert (
        "out contains the outputs of an earlier run (2 files in manifest.jsonl): resume it (--resume)"
        in folders.stderr_of(done)
    )
    for words in (
        [folders.pipeline("Streaming"), *USUAL],
        [DESCRIBE, *USUAL, "--option", "ms=1"],
        [DESCRIBE, *USUAL, "--output-format", "jsonl"],
        [DESCRIBE, "--input-dir", "in/sub", *USUAL[2:]],
    ):
        done = folders.command(*words, "--resume", cwd=inputs)
        assert done.returncode == 2
        assert "use the same settings, or name another output folder" in folders.stderr_of(done)
    folders.fill(inputs / "in", ["4.jpg"])
    done = folders.command(DESCRIBE, *USUAL, "--resume", "--batch-size", 2, "--quiet", cwd=inputs)
    assert (done.returncode, folders.stderr_of(done)) == (0, "")
    assert folders.manifest(inputs / "out").keys() == {"1.jpg", "2.png", "4.jpg"}


def test_failed_files_are_processed_again_only_with_retry_failed(inputs):
    folders.fill(inputs / "in", ["bad.jpg"])
    assert folders.command(DESCRIBE, *USUAL, cwd=inputs).returncode == 1
    done = folders.command(DESCRIBE, *USUAL, "--resume", cwd=inputs)
    assert done.returncode == 1
    assert "nothing to do: all 3 files were processed before" in folders.stderr_of(done)
    done = folders.command(DESCRIBE, *USUAL, "--resume", "--retry-failed", cwd=inputs)
    assert done.returncode == 1
    assert "1 files in" in folders.stderr_of(done)
    assert folders.manifest(inputs / "out")["bad.jpg"]["status"] == "error"
    (inputs / "in/bad.jpg").unlink()
    assert folders.command(DESCRIBE, *USUAL, "--resume", cwd=inputs).returncode == 0, "it is not an input any more"


def test_the_manifest_records_each_outcome(inputs):
    folders.fill(inputs / "in", ["bad.jpg"])
    folders.command(DESCRIBE, *USUAL, cwd=inputs)
    entries = folders.manifest(inputs / "out")
    good, bad = entries["1.jpg"], entries["bad.jpg"]
    assert good["status"] == "ok"
    assert good["outputs"] == ["1.jpg.json"]
    assert good["device"] == bad["device"] == "cpu:0"
    assert bad["reason"].startswith("ValueError: cannot identify image file (pipelines.py, line ")
    assert good["seconds"] > 0
    assert good["finished"] > 1_600_000_000


def test_two_runs_cannot_write_to_one_folder(inputs):
    folders.fill(inputs / "in", [f"{number}.jpg" for number in range(100)])
    with folders.running(DESCRIBE, *USUAL, "--option", "ms=50", cwd=inputs):
        folders.wait_for_lines(inputs / "out/manifest.jsonl", 1)
        done = folders.command(DESCRIBE, *USUAL, "--option", "ms=50", "--resume", cwd=inputs)
    assert done.returncode == 2
    assert "another run is writing to" in folders.stderr_of(done)


# ---- which files


def test_patterns_hidden_files_and_folders(inputs):
    words = [DESCRIBE, "--input-dir", "in", "--devices", "cpu:0", "--output-dir"]
    assert folders.command(*words, "a", "--input-glob-pattern", "*.jpg", cwd=inputs).returncode == 0
    assert folders.manifest(inputs / "a").keys() == {"1.jpg"}
    assert folders.command(*words, "in/out", "--recursive", cwd=inputs).returncode == 0
    assert folders.manifest(inputs / "in/out").keys() == {"1.jpg", "2.png", "sub/3.jpg"}
    done = folders.command(*words, "in/out", "--recursive", "--resume", cwd=inputs)
    assert "nothing to do: all 3 files were processed before" in folders.stderr_of(done)


def test_a_list_on_standard_input_with_unusual_names(inputs):
    """Spaces, line breaks, invalid UTF-8, a duplicate, a missing file, and a file outside of the folder."""
    strange = [b"a b.jpg", b"line\nend.jpg", b"\xff\xfe.jpg", "ü'\"\\.jpg".encode()]
    for name in strange:
        with open(os.path.join(os.fsencode(inputs), b"in", name), "w"):
            pass
    listed = b"\0".join([*strange, b"1.jpg", b"./1.jpg", b"../old/x.jpg.json"]) + b"\0"
    done = folders.command(DESCRIBE, *USUAL, "--input-list", "-", cwd=inputs, stdin=listed)
    assert done.returncode == 0, folders.stderr_of(done)
    entries = folders.manifest(inputs / "out")
    outside = str(inputs / "old/x.jpg.json").lstrip("/")
    assert entries.keys() == {*map(os.fsdecode, strange), "1.jpg", outside}
    for entry in entries.values():
        (output,) = entry["outputs"]
        assert os.path.isfile(os.path.join(inputs, "out", output))
    again = folders.command(DESCRIBE, *USUAL, "--input-list", "-", "--resume", cwd=inputs, stdin=listed)
    assert "nothing to do: all 6 files were processed before" in folders.stderr_of(again)


def test_failures_of_unusual_names_are_printed_in_one_line(inputs):
    listed = b"bad\nline.jpg\0bad\xff.jpg\0"
    done = folders.command(DESCRIBE, *USUAL, "--input-list", "-", cwd=inputs, stdin=listed)
    assert done.returncode == 1
    assert "\n  'bad\\nline.jpg': ValueError" in folders.stderr_of(done)
    assert "\n  'bad\\udcff.jpg': ValueError" in folders.stderr_of(done)


def test_absolute_paths_in_a_list_keep_their_folders(inputs):
    (inputs / "list").write_text(f"{inputs}/in/1.jpg\n{inputs}/in/sub/3.jpg\n")
    words = [DESCRIBE, "--input-list", "list", "--output-dir", "out", "--devices", "cpu:0"]
    assert folders.command(*words, cwd=inputs).returncode == 0
    below = str(inputs).lstrip("/")
    assert folders.outputs(inputs / "out") == [f"{below}/in/1.jpg.json", f"{below}/in/sub/3.jpg.json"]


# ---- output


def test_verbose_output(inputs):
    done = folders.command(DESCRIBE, *USUAL, "--verbose", cwd=inputs)
    text = folders.stderr_of(done)
    assert "2 files, 2 to process, on cpu:0" in text
    assert "outputs are in out" in text
    assert "cpu:0 2" in text
    assert done.stdout == b""


def test_a_progress_bar_on_a_terminal(inputs):
    folders.fill(inputs / "in", ["bad.jpg", *(f"{number}.jpg" for number in range(30))])
    master, slave = pty.openpty()
    words = folders.command_line(DESCRIBE, *USUAL, "--option", "ms=20")
    environ = folders.environment({"TERM": "xterm", "COLUMNS": "120", "NO_COLOR": None})
    process = subprocess.Popen(words, cwd=inputs, stderr=slave, env=environ)
    os.close(slave)
    output = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:  # the terminal is closed
            break
        if not data:
            break
        output += data
    os.close(master)
    assert process.wait(60) == 1
    text = output.decode()
    for words in ("━", "32/32", "files/s", "1 failed", "left", "cpu:0 32"):
        assert words in text, words


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_a_report(inputs, suffix):
    folders.fill(inputs / "in", ["bad<1>$.jpg", *(f"{number}.jpg" for number in range(30))])
    report = inputs / f"report.{suffix}"
    done = folders.command(DESCRIBE, *USUAL, "--report", report.name, cwd=inputs)
    assert done.returncode == 1
    assert f"the report is in report.{suffix}" in folders.stderr_of(done)
    if suffix == "html":
        page = report.read_text()
        assert "bad&lt;1&gt;$.jpg" in page
        assert "data:image/png;base64," in page
        (told,) = re.findall(r"^32 files in \S+ s \(\S+ files/s\)", folders.stderr_of(done), re.MULTILINE)
        assert f"<p>{told};" in page
    else:
        with PIL.Image.open(report) as picture:
            colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(colours, axis=0)) > 50
    before = report.read_bytes()
    done = folders.command(DESCRIBE, *USUAL, "--report", report.name, "--resume", cwd=inputs)
    assert "no file was processed in this run, so there is no report" in folders.stderr_of(done)
    assert report.read_bytes() == before


def test_all_times_of_a_run_are_of_one_clock(tmp_path, monkeypatch):
    """It runs from the start to the latest file: what comes afterwards, like drawing, changes nothing."""
    now_s = 100.0
    monkeypatch.setattr("ascend_parallel.mapping.counts.time", SimpleNamespace(monotonic=lambda: now_s))
    titles = []
    monkeypatch.setattr(matplotlib.axes.Axes, "set", lambda _, title="", **others: titles.append(title))
    counts = RunCounts(total=350, before=50)
    report = Report(counts)
    outcomes = [Outcome(f"{i}.jpg", f"in/{i}.jpg", ok=True, seconds=0.01, device="cpu:0") for i in range(150)]
    for now_s in (102.0, 102.75):
        counts.add(outcomes)
        report.add(outcomes)
        if now_s == 102.0:
            assert counts.describe() == "75 files/s, 0 failed, 2 s left"
    now_s = 104.0
    report.write(tmp_path / "r.html", "a:b", {})
    assert counts.describe() == "109 files/s, 0 failed"
    assert counts.describe_run() == "300 files in 2.8 s (109 files/s)"
    assert f"<p>{counts.describe_run()}; 50 were done before;" in (tmp_path / "r.html").read_text()
    assert "Throughput (mean 109 files/s)" in titles


def test_without_matplotlib_the_report_says_what_to_install(inputs):
    folders.fill(inputs, ["hidden/sitecustomize.py"])
    (inputs / "hidden/sitecustomize.py").write_text("import sys\nsys.modules['matplotlib'] = None\n")
    path = os.pathsep.join([str(inputs / "hidden"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = folders.command(DESCRIBE, *USUAL, "--report", "r.png", cwd=inputs, PYTHONPATH=path)
    assert done.returncode == 2
    assert "pip install 'ascend-parallel[plot]'" in folders.stderr_of(done)
    assert not (inputs / "out").exists()


def test_help_names_every_option():
    done = subprocess.run(
        [sys.executable, "-m", "ascend_parallel", "map", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    for word in ("PIPELINE", "--input-dir", "--resume", "--report", "--timeout-s", "--instances-per-device"):
        assert word in done.stdout
