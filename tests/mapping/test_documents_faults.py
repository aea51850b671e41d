"""Faults of the scripts in PaddleX's documentation, one by one, and what happens here instead.

The pipelines are stand-ins. The real PaddleX and PaddleOCR have their own tests.
"""

import json
from pathlib import Path

import pytest

from ascend_parallel import parallel_map

from . import folders

STANDINS = str(Path(__file__).with_name("standins"))


@pytest.fixture
def paddle(monkeypatch):
    """Let workers import the stand-ins."""
    monkeypatch.syspath_prepend(STANDINS)


def test_a_bad_image_affects_no_other_and_sets_the_exit_code(tmp_path):
    folders.fill(tmp_path / "in", ["1.jpg", "2.jpg", "bad.jpg", "x.jpg"])
    words = ["paddlex:doc", "--input_dir", "in", "--output_dir", "out", "--device", "cpu:0", "--batch_size", 4]
    done = folders.command(*words, cwd=tmp_path, python_path=STANDINS)
    assert done.returncode == 1
    assert "1 of 4 files failed:\n  bad.jpg: RuntimeError: a bad image takes its batch" in folders.stderr_of(done)
    assert folders.outputs(tmp_path / "out") == ["1.jpg.json", "2.jpg.json", "x.jpg.json"]


START = {
    "raises": (["raises_building"], 3, "RuntimeError: no weights for default"),
    "raises with an option": (["raises_building", "--option", "model=mine"], 3, "no weights for mine"),
    "dies": (["dies_building"], 4, "died while building (exit code 7)"),
}


@pytest.mark.parametrize(("words", "code", "message"), START.values(), ids=START)
def test_workers_that_do_not_start_are_an_error_at_once(tmp_path, words, code, message):
    folders.fill(tmp_path / "in", ["1.jpg"])
    words = [folders.pipeline(words[0]), *words[1:], "--input-dir", "in", "--output-dir", "out", "--devices", "cpu:0,1"]
    done = folders.command(*words, cwd=tmp_path)
    assert done.returncode == code
    text = folders.stderr_of(done).splitlines()[-1]
    assert text.startswith("ascend-parallel: error: ")
    assert message in text
    assert not (tmp_path / "out").exists(), "the corrected command must run unchanged"


def test_workers_that_die_are_an_error(tmp_path):
    folders.fill(tmp_path / "in", ["crash1.jpg", "crash2.jpg"])
    words = [folders.pipeline("describe"), "--input-dir", "in", "--output-dir", "out", "--devices", "cpu:0"]
    done = folders.command(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "2 of 2 files failed" in folders.stderr_of(done)


def test_outputs_keep_folder_and_suffix(tmp_path):
    names = ["same.jpg", "same.png", "sub/same.jpg", "sub/same"]
    folders.fill(tmp_path / "in", names)
    words = [
        folders.pipeline("describe"),
        "--input-dir",
        "in",
        "--output-dir",
        "out",
        "--recursive",
        "--devices",
        "cpu:0",
    ]
    assert folders.command(*words, cwd=tmp_path).returncode == 0
    assert folders.outputs(tmp_path / "out") == sorted(f"{name}.json" for name in names)
    for name in names:
        assert json.loads((tmp_path / f"out/{name}.json").read_text())["path"] == f"in/{name}"


DEVICES = {"cpu:0,1": {"cpu"}, "cpu": {"cpu"}}


@pytest.mark.parametrize("devices", DEVICES)
def test_cpu_numbers_are_workers_and_paddle_gets_cpu(tmp_path, devices, paddle):
    folders.fill(tmp_path / "in", [f"{number}.jpg" for number in range(20)])
    outcomes = list(parallel_map("paddlex:doc", tmp_path / "in", devices=devices, options={"use_hpip": False}))
    assert {outcome.result["device"] for outcome in outcomes} == DEVICES[devices]
    assert {outcome.device for outcome in outcomes} <= {"cpu:0", "cpu:1"}
    assert outcomes[0].result["options"] == {"use_hpip": False}


def test_devices_in_paddle_s_notation():
    from ascend_parallel.worker.pipelines.opening import paddle_device

    assert [paddle_device(device) for device in [("cpu", 1), ("gpu", 2), ("ascend", 0)]] == ["cpu", "gpu:2", "npu:0"]


def test_a_class_of_paddleocr(tmp_path, paddle):
    folders.fill(tmp_path / "in", ["1.jpg"])
    options = {"lang": "en"}
    (outcome,) = parallel_map("paddleocr:DocPreprocessor", tmp_path / "in", devices="cpu:0", options=options)
    assert outcome.result["options"] == {"lang": "en"}


def test_path_objects_are_converted_to_strings(tmp_path, paddle):
    folders.fill(tmp_path / "in", ["1.jpg"])
    (outcome,) = parallel_map("paddlex:doc", [tmp_path / "in/1.jpg"], devices="cpu:0")
    assert outcome.result["input_path"] == str(tmp_path / "in/1.jpg")


def test_unknown_paths_are_failures(tmp_path, paddle):
    folders.fill(tmp_path, ["1.jpg"])
    paths = [tmp_path / "1.jpg", tmp_path / "gone.jpg"]
    outcomes = list(parallel_map("paddlex:doc", paths, devices="cpu:0", batch_size=2))
    assert [outcome.ok for outcome in outcomes] == [True, False]
    assert "there is no file" in outcomes[1].error


MISSING = {
    "library": ("paddlex:OCR", "paddlex is not installed for ", "-m pip install paddlex"),
    "class": ("paddleocr:DocPreprocesor", "paddleocr has no class 'DocPreprocesor'", "paddleocr:DocPreprocessor?"),
    "option": ("paddleocr:DocPreprocessor", "unexpected keyword argument 'lnag'", "DocPreprocessor"),
}


@pytest.mark.parametrize(("pipeline", "message", "hint"), MISSING.values(), ids=MISSING)
def test_missing_libraries_classes_and_options_are_reported(tmp_path, pipeline, message, hint):
    folders.fill(tmp_path / "in", ["1.jpg"])
    words = [pipeline, "--input-dir", "in", "--output-dir", "out", "--devices", "cpu:0"]
    if "lnag" in message:
        words += ["--option", "lnag=en"]
    path = "" if pipeline == "paddlex:OCR" else STANDINS
    done = folders.command(*words, cwd=tmp_path, python_path=path)
    assert done.returncode == 3
    text = folders.stderr_of(done).splitlines()[-1]
    assert message in text
    assert hint in text


def test_each_worker_has_its_share_of_the_cores(tmp_path):
    folders.fill(tmp_path / "in", [f"{number}.jpg" for number in range(40)])
    words = [
        folders.pipeline("threads"),
        "--input-dir",
        "in",
        "--output-dir",
        "out",
        "--devices",
        "cpu:0,1",
        "--verbose",
    ]
    unset = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "PADDLE_PDX_CPU_NUM_THREADS"])
    done = folders.command(*words, "--instances-per-device", 3, cwd=tmp_path, **unset)
    assert done.returncode == 0, folders.stderr_of(done)
    assert "6 workers, 1 thread each" in folders.stderr_of(done)
    environment = json.loads((tmp_path / "out/1.jpg.json").read_text())
    assert {name: environment[name] for name in unset} == dict.fromkeys(unset, "1")


def test_instances_are_separate_processes(tmp_path):
    folders.fill(tmp_path / "in", [f"{number}.jpg" for number in range(60)])
    outcomes = parallel_map(folders.pipeline("threads"), tmp_path / "in", devices="cpu:0,1", instances_per_device=2)
    pids = {outcome.device: set() for outcome in outcomes if outcome.ok}
    assert len(pids) == 2
