"""What the scripts of PaddleX's documents do wrong, one after the other, and what happens here instead.

Pipelines are stand-ins; the real PaddleX and PaddleOCR have tests of their own.
"""

import json
from pathlib import Path

import pytest

from ascend_parallel import parallel_map

from . import folders

STANDINS = str(Path(__file__).with_name("standins"))


@pytest.fixture
def paddle(monkeypatch):
    """Have workers find the stand-ins."""
    monkeypatch.syspath_prepend(STANDINS)


def test_one_bad_image_costs_only_itself_and_the_exit_code_says_so(tmp_path):
    folders.fill(tmp_path / "in", ["1.jpg", "2.jpg", "bad.jpg", "x.jpg"])
    words = ["paddlex:doc", "--input_dir", "in", "--output_dir", "out", "--device", "cpu:0", "--batch_size", 4]
    done = folders.command(*words, cwd=tmp_path, python_path=STANDINS)
    assert done.returncode == 1
    assert "1 of 4 files failed:\n  bad.jpg: RuntimeError: a bad image takes its batch" in folders.said(done)
    assert folders.outputs(tmp_path / "out") == ["1.jpg.json", "2.jpg.json", "x.jpg.json"]


START = {
    "raises": (["raises_building"], 3, "RuntimeError: no weights for default"),
    "raises with an option": (["raises_building", "--option", "model=mine"], 3, "no weights for mine"),
    "dies": (["dies_building"], 4, "died while building (exit code 7)"),
}


@pytest.mark.parametrize(("words", "code", "message"), START.values(), ids=START)
def test_workers_that_do_not_start_are_an_error_at_once(tmp_path, words, code, message):
    folders.fill(tmp_path / "in", ["1.jpg"])
    words = [folders.of(words[0]), *words[1:], "--input-dir", "in", "--output-dir", "out", "--devices", "cpu:0,1"]
    done = folders.command(*words, cwd=tmp_path)
    assert done.returncode == code
    text = folders.said(done).splitlines()[-1]
    assert text.startswith("ascend-parallel: error: ")
    assert message in text
    assert not (tmp_path / "out").exists(), "so that the mended command runs as it is"


def test_workers_that_die_are_an_error(tmp_path):
    folders.fill(tmp_path / "in", ["crash1.jpg", "crash2.jpg"])
    words = [folders.of("describe"), "--input-dir", "in", "--output-dir", "out", "--devices", "cpu:0"]
    done = folders.command(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "2 of 2 files failed" in folders.said(done)


def test_outputs_keep_folder_and_suffix(tmp_path):
    names = ["same.jpg", "same.png", "sub/same.jpg", "sub/same"]
    folders.fill(tmp_path / "in", names)
    words = [folders.of("describe"), "--input-dir", "in", "--output-dir", "out", "--recursive", "--devices", "cpu:0"]
    assert folders.command(*words, cwd=tmp_path).returncode == 0
    assert folders.outputs(tmp_path / "out") == sorted(f"{name}.json" for name in names)
    for name in names:
        assert json.loads((tmp_path / f"out/{name}.json").read_text())["path"] == f"in/{name}"


DEVICES = {"cpu:0,1": {"cpu"}, "cpu": {"cpu"}}


@pytest.mark.parametrize("devices", DEVICES)
def test_cpu_numbers_are_workers_and_paddle_hears_cpu(tmp_path, devices, paddle):
    folders.fill(tmp_path / "in", [f"{number}.jpg" for number in range(20)])
    found = list(parallel_map("paddlex:doc", tmp_path / "in", devices=devices, options={"use_hpip": False}))
    assert {outcome.result["device"] for outcome in found} == DEVICES[devices]
    assert {outcome.device for outcome in found} <= {"cpu:0", "cpu:1"}
    assert found[0].result["options"] == {"use_hpip": False}


def test_devices_as_paddle_calls_them():
    from ascend_parallel.worker.pipelines.opening import paddle_device

    assert [paddle_device(device) for device in [("cpu", 1), ("gpu", 2), ("ascend", 0)]] == ["cpu", "gpu:2", "npu:0"]


def test_a_class_of_paddleocr(tmp_path, paddle):
    folders.fill(tmp_path / "in", ["1.jpg"])
    options = {"lang": "en"}
    (outcome,) = parallel_map("paddleocr:DocPreprocessor", tmp_path / "in", devices="cpu:0", options=options)
    assert outcome.result["options"] == {"lang": "en"}


def test_paths_that_are_no_strings_are_made_strings(tmp_path, paddle):
    folders.fill(tmp_path / "in", ["1.jpg"])
    (outcome,) = parallel_map("paddlex:doc", [tmp_path / "in/1.jpg"], devices="cpu:0")
    assert outcome.result["input_path"] == str(tmp_path / "in/1.jpg")


def test_unknown_paths_are_failures(tmp_path, paddle):
    folders.fill(tmp_path, ["1.jpg"])
    paths = [tmp_path / "1.jpg", tmp_path / "gone.jpg"]
    found = list(parallel_map("paddlex:doc", paths, devices="cpu:0", batch_size=2))
    assert [outcome.ok for outcome in found] == [True, False]
    assert "there is no file" in found[1].error


MISSING = {
    "library": ("paddlex:OCR", "paddlex is not installed for ", "-m pip install paddlex"),
    "class": ("paddleocr:DocPreprocesor", "paddleocr has no class 'DocPreprocesor'", "paddleocr:DocPreprocessor?"),
    "option": ("paddleocr:DocPreprocessor", "unexpected keyword argument 'lnag'", "DocPreprocessor"),
}


@pytest.mark.parametrize(("pipeline", "says", "helps"), MISSING.values(), ids=MISSING)
def test_what_is_missing_is_said(tmp_path, pipeline, says, helps):
    folders.fill(tmp_path / "in", ["1.jpg"])
    words = [pipeline, "--input-dir", "in", "--output-dir", "out", "--devices", "cpu:0"]
    if "lnag" in says:
        words += ["--option", "lnag=en"]
    path = "" if pipeline == "paddlex:OCR" else STANDINS
    done = folders.command(*words, cwd=tmp_path, python_path=path)
    assert done.returncode == 3
    text = folders.said(done).splitlines()[-1]
    assert says in text
    assert helps in text


def test_each_worker_has_its_share_of_the_cores(tmp_path):
    folders.fill(tmp_path / "in", [f"{number}.jpg" for number in range(40)])
    words = [folders.of("threads"), "--input-dir", "in", "--output-dir", "out", "--devices", "cpu:0,1", "--verbose"]
    unset = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "PADDLE_PDX_CPU_NUM_THREADS"])
    done = folders.command(*words, "--instances-per-device", 3, cwd=tmp_path, **unset)
    assert done.returncode == 0, folders.said(done)
    assert "6 workers, 1 thread each" in folders.said(done)
    told = json.loads((tmp_path / "out/1.jpg.json").read_text())
    assert {name: told[name] for name in unset} == dict.fromkeys(unset, "1")


def test_instances_are_processes_of_their_own(tmp_path):
    folders.fill(tmp_path / "in", [f"{number}.jpg" for number in range(60)])
    found = parallel_map(folders.of("threads"), tmp_path / "in", devices="cpu:0,1", instances_per_device=2)
    pids = {outcome.device: set() for outcome in found if outcome.ok}
    assert len(pids) == 2
