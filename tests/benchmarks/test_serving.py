"""benchmarks/serving.py: a quick run against our own server, its checks, its report, and that nothing is left."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scheduling
from servers import models, open_inference, report
from servers.job import Job
from servers.load import Sample
from servers.mosec import Mosec
from servers.ours import Ours
from servers.server import ServerError

BENCHMARKS = Path(scheduling.__file__).parent
NO_VENVS = Path("/nowhere")

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")


def run_serving(*arguments, **environ):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "serving.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environ},
    )


@needs_wrk
def test_our_server_is_measured():
    done = run_serving("--models", "mlp", "--servers", "ours", "--connections", "2", "--rounds", "1", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert "MLP: requests a second; p50, p99" in done.stdout
    assert "1 rounds of 1 s; " in done.stdout
    assert done.stderr == "MLP, round 1: ascend_parallel\n"


@needs_wrk
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--models", "resnet"), "--models names 'resnet'; expected some of mlp, cnn, unet, identity"),
        (("--servers", "nginx"), "--servers names 'nginx'; expected some of ours, mosec"),
        (("--connections", "many"), "--connections is 'many'; expected numbers such as 1,16,64"),
        (("--connections", "1,0"), "--rounds, --seconds and --connections must be at least 1"),
        (
            ("--servers", "mosec", "--venvs", "/nowhere"),
            "/nowhere/serve-mosec/bin/python does not exist: run make bench",
        ),
    ],
)
def test_invalid_arguments_are_refused_in_one_sentence(arguments, sentence):
    done = run_serving(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_without_wrk_the_error_says_how_to_get_it(tmp_path):
    done = run_serving("--servers", "ours", PATH=str(tmp_path))
    assert done.returncode == 2
    assert "error: wrk, which sends the requests, is not installed: apt-get install wrk" in done.stderr


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return Job(str(models.write_job("mlp", tmp_path_factory.mktemp("mlp"))))


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    return Job(str(models.write_job("unet", tmp_path_factory.mktemp("unet"))))


def test_only_requests_with_the_same_timestep_share_a_batch(unet):
    """As every server of the benchmark batches them: each request gets the result that it gets alone."""
    session = unet.open_session()
    requests = [unet.unpack(unet.pack()) for _ in range(4)]
    for step, request in enumerate(requests):
        request["timestep"] = np.array([100 * (step % 2)])
    together = unet.run(session, requests)
    assert not np.allclose(together[0], together[1], atol=unet.tolerance)
    for output, request in zip(together, requests, strict=True):
        np.testing.assert_allclose(output, unet.run(session, [request])[0], atol=unet.tolerance)


def test_wrong_answers_are_not_measured(job):
    server = Mosec(job, NO_VENVS)
    server.check({}, job.expected.tobytes())
    with pytest.raises(ServerError, match="mosec's answer differs from onnxruntime's result by"):
        server.check({}, (job.expected + 1).tobytes())
    with pytest.raises(ServerError, match="mosec answered 1 values; expected 64"):
        server.check({}, b"1234")
    with pytest.raises(ServerError, match="mosec answered b'no floats'"):
        server.check({}, b"no floats")


def test_the_protocol_s_answer_is_unpacked(job):
    server = Ours(job, NO_VENVS)
    head = b'{"model_name": "mlp", "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 64]}]}'
    length = {open_inference.LENGTH_HEADER.lower(): str(len(head))}
    server.check(length, head + job.expected.tobytes())
    with pytest.raises(ServerError, match="the output is named 'z'; expected 'y'"):
        server.check(length, head.replace(b'"y"', b'"z"') + job.expected.tobytes())
    with pytest.raises(ServerError, match="ascend_parallel answered"):
        server.check({}, head + job.expected.tobytes())


#: A server with a daemon of its own session, whose parent is gone, and with files outside its folder.
DAEMON = """
import http.server, os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(1000)
os.wait()
job = sys.argv[2]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(Job(job).expected.tobytes())
from servers.job import Job
open(f"{sys.argv[3]}/left-{os.getpid()}", "w").close()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
#: In a process of its own: it ends all its descendants.
STARTS_AND_STOPS = """
import sys
from pathlib import Path
from servers import process
from servers.job import Job
from servers.server import Server

daemon, job, folder = sys.argv[1:]

class Daemon(Server):
    title = "daemon"
    leftovers = (f"{folder}/left-PID", f"{folder}/left-by-others")

    def command(self, port):
        return [sys.executable, "-c", daemon, str(port), job, folder]

process.adopt_orphans()
Path(folder, "left-by-others").touch()
with process.running(Daemon, Job(job), Path(), Path(folder)):
    print(len(process.descendants()))
print(process.descendants(), [path.name for path in Path(folder).iterdir()])
"""


def test_a_server_s_daemons_and_files_are_removed(job, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STARTS_AND_STOPS, DAEMON, job.path, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])},
    )
    assert done.stdout == "2\n[] ['left-by-others']\n", done.stderr


def test_a_server_that_ends_reports_why(job, tmp_path):
    code = STARTS_AND_STOPS.replace("daemon, str(port)", "'raise RuntimeError(\"no port\")', str(port)")
    done = subprocess.run(
        [sys.executable, "-c", code, DAEMON, job.path, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])},
    )
    assert "servers.server.ServerError: daemon ended with exit code 1: its last output:" in done.stderr
    assert "RuntimeError: no port" in done.stderr


RESULTS = {
    "mlp": {
        "ours": {turn: {16: Sample(2000, 1, 2, 50)} for turn in range(3)},
        "mosec": {turn: {16: Sample(1000, 1, 1 + turn, 60)} for turn in (1, 2)},
        "uvicorn": {turn: {16: Sample(2500, 1, 1, 60)} for turn in range(3)},
        "litserve": {},
        "bare": {turn: {16: Sample(4000, 1, 1, 30)} for turn in range(3)},
    }
}


def test_ratios_compare_the_same_round():
    assert report.ratios(RESULTS["mlp"], "mosec", 16, "requests_per_s") == [2, 2]
    assert report.ratios(RESULTS["mlp"], "mosec", 16, "p99_ms") == [1, 1.5]
    assert report.ratios(RESULTS["mlp"], "litserve", 16, "p99_ms") == []


def test_the_readme_s_section_is_written_between_its_marks(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    readme, plot = tmp_path / "README.md", tmp_path / "serving.png"
    readme.write_text(f"before\n{report.BEGIN}: a mark -->\nold content\n<!-- to here -->\nafter\n")
    monkeypatch.setattr(report, "README", readme)
    monkeypatch.setattr(report, "PLOT", plot)
    report.save(RESULTS, "conditions")
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}: a mark -->\nconditions\n")
    assert text.endswith("<!-- to here -->\nafter\n")
    assert "| mosec | 2.00 of 1.7 |" in text
    assert "| LitServe | - of 15 |" in text
    assert "| behind with MLP | uvicorn, model in the process: requests/s, p99 |" in text
    assert "| mosec | 2.00 (2.00 to 2.00) | 1.25 (1.00 to 1.50) |" in text
    assert "| ascend_parallel | 2,000/s; 1, 2 ms | 50 |" in text
    assert "| MLP | 16 | 50 | 30 |  |  | 20 |" in text
    assert "- mosec: `num=2`" in text
    assert "old content" not in text
    assert plot.read_bytes().startswith(b"\x89PNG")
