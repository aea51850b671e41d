"""benchmarks/pipeline.py: a quick run against our own server, its checks, and its report."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scheduling
from ocr.job import OcrJob, load
from ocr.ours import Ours
from ocr.paddle_serving import PaddleServing, cut_lines
from ocr.ray_serve import RayServe
from servers.load import Sample
from servers.server import ServerError

BENCHMARKS = Path(scheduling.__file__).parent
#: By its path: examples/sd21 has a module of this name.
pipeline = load("benchmark_of_pipelines", BENCHMARKS / "pipeline.py")
NO_VENVS = Path("/nowhere")

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")


def run_pipeline(*arguments):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "pipeline.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
    )


@needs_wrk
def test_our_server_the_loop_and_the_ops_are_measured():
    done = run_pipeline("--servers", "ours", "--rounds", "1", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    for title in ("ascend_parallel", "a plain Python loop", "op detect, alone", "the slowest op alone"):
        assert title in done.stdout
    assert done.stderr == "".join(f"round 1: {name}\n" for name in ("ours", "loop", "op detect", "op recognise"))


@needs_wrk
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--servers", "nginx"), "--servers names 'nginx'; expected some of ours, paddle, ray"),
        (("--rounds", "0"), "--rounds and --seconds must be at least 1"),
        (("--servers", "ray", "--venvs", "/nowhere"), "/nowhere/serve-ray/bin/python does not exist: run make bench"),
    ],
)
def test_invalid_arguments_are_refused_in_one_sentence(arguments, sentence):
    done = run_pipeline(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


@pytest.fixture(scope="module")
def job():
    return OcrJob()


def test_every_answer_is_compared_with_its_page(job):
    server = RayServe(job, NO_VENVS)
    server.check_page(5, {}, json.dumps({"texts": job.texts[5][::-1]}).encode())
    with pytest.raises(ServerError, match="Ray Serve, deployment handles read .* on page 5, which says"):
        server.check_page(5, {}, json.dumps({"texts": job.texts[6]}).encode())
    with pytest.raises(ServerError, match="answered b'no JSON'"):
        server.check_page(5, {}, b"no JSON")


def test_the_protocols_are_understood(job):
    value = {"err_no": 0, "key": ["texts", "boxes"], "value": [json.dumps(job.texts[3]), "[]"]}
    PaddleServing(job, NO_VENVS).check_page(3, {}, json.dumps(value).encode())
    with pytest.raises(ServerError, match="err_no 9000: no client"):
        PaddleServing(job, NO_VENVS).check_page(3, {}, b'{"err_no": 9000, "err_msg": "no client"}')
    outputs = [{"name": "boxes", "data": []}, {"name": "texts", "data": job.texts[2]}]
    Ours(job, NO_VENVS).check_page(2, {}, json.dumps({"outputs": outputs}).encode())


def test_lines_are_cut_as_they_were_joined():
    lines = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((1, 4), np.float32)]
    boxes = np.array([[5, 1, 8, 3], [0, 7, 4, 8]])
    for given, expected in zip(cut_lines(boxes, np.concatenate([x.ravel() for x in lines])), lines, strict=True):
        np.testing.assert_array_equal(given, expected)


RESULTS = {
    "ours": {turn: Sample(2000, 1, 2, 50) for turn in range(3)},
    "ray": {turn: Sample(800, 1, 6, 60) for turn in (1, 2)},
    "paddle": {},
    "loop": {turn: Sample(1000, 0, 1, 60) for turn in range(3)},
    "op slow": {turn: Sample(2500, 0, 0, 0) for turn in range(3)},
    "op fast": {turn: Sample(9000, 0, 0, 0) for turn in range(3)},
}


def test_goals_compare_the_same_round():
    (_, _, rows), (_, _, figures) = pipeline.sheets(RESULTS)
    assert ["Ray Serve, deployment handles", "2.50 (2.50 to 2.50)", "2", "3.00 (3.00 to 3.00)"] in rows
    assert ["the slowest op alone", "0.80 (0.80 to 0.80)", "0.95", ""] in rows
    assert not [row for row in (*rows, *figures) if row[0].startswith("Paddle")]
    assert ["ascend_parallel", "2,000", "2 ms", "50"] in figures


def test_the_readme_s_section_is_there():
    text = (BENCHMARKS / "README.md").read_text()
    assert text.count(pipeline.BEGIN) == 1
