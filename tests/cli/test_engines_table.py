"""What ``ascend-parallel engines`` prints; runtimes are imported by real processes."""

import json
import os
import stat
import subprocess
import sys
import time

import pytest
from faults import procs

import ascend_parallel
from ascend_parallel import UsageError, engine_list
from ascend_parallel.cli import engines as command
from ascend_parallel.engine_list import EngineInfo, RuntimeInfo, list_engines
from ascend_parallel.runner.options import load_engine
from ascend_parallel.worker.engines import PUBLIC_ENGINES

ONNX_RUNTIME = load_engine("onnxruntime")
MINE = """
from ascend_parallel import Engine

class Mine(Engine):
    suffixes, device_types, options = (".bin",), ("gpu", "cpu"), {"size": (int, float)}
    modules, install = ("no_such_runtime",), "pip install no-such-runtime"
    def __init__(self, model, device, options): ...
    def predict(self, names, inputs, destinations): ...

class Crashes(Mine):
    @classmethod
    def describe_runtime(cls):
        import os
        print("a line", flush=True)
        os.abort()

class Talks(Mine):
    @classmethod
    def describe_runtime(cls):
        import os, sys
        print("{}")
        os.write(1, b"more\\n")
        return "python %d.%d" % sys.version_info[:2]

class Hangs(Mine):
    @classmethod
    def describe_runtime(cls):
        import signal, subprocess, sys
        subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        signal.pause()

class Leaves(Mine):
    @classmethod
    def describe_runtime(cls):
        raise SystemExit("no licence")
"""


@pytest.fixture
def mine(tmp_path):
    """Return how a class of MINE is named."""
    (tmp_path / "mine.py").write_text(MINE)
    return lambda name: f"{tmp_path}/mine.py:{name}"


def run(*words, cwd, width=None):
    environ = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(ascend_parallel.__file__))}
    return subprocess.run(
        [sys.executable, "-m", "ascend_parallel", "engines", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        env=environ,
    )


def test_all_engines_and_what_is_here(tmp_path):
    done = run(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line[:1].isalpha()}
    assert list(rows)[: 1 + len(PUBLIC_ENGINES)] == ["Engine", *PUBLIC_ENGINES]
    assert ".onnx, .ort" in rows["onnxruntime"] and "cpu, gpu, tensorrt, openvino, ascend" in rows["onnxruntime"]
    import onnxruntime

    assert f"onnxruntime {onnxruntime.__version__} (" in done.stdout and "cpu" in done.stdout
    assert "Options of mslite: threads (int), precision_mode (str)," in done.stdout
    assert "Options of callable: any, they are the model's own" in done.stdout
    assert "pipeline" not in done.stdout and "modelfile" not in done.stdout, "they are map's"


@pytest.mark.mslite
def test_another_interpreter(tmp_path):
    import models

    python = models.mslite_python()
    done = run("--worker-python", python, "--json", cwd=tmp_path)
    found = {engine["name"]: engine for engine in json.loads(done.stdout)}
    assert list(found) == list(PUBLIC_ENGINES)
    assert found["mslite"]["worker"] == {"python": python, "found": "mindspore_lite 2.0.0", "error": ""}
    assert found["mslite"]["suffixes"] == [".mindir"]
    assert found["mslite"]["device_types"] == ["ascend", "gpu", "cpu"]
    assert found["mslite"]["instances"] == "threads"
    assert found["callable"]["options"] is None
    assert found["simulated"]["options"]["ms_per_row"] == ["int", "float"]
    assert found["onnxruntime"]["worker"]["error"].startswith("ModuleNotFoundError: No module named 'onnxruntime'")
    assert found["onnxruntime"]["here"]["error"] == ""
    assert found["onnxruntime"]["here"]["python"] == sys.executable
    table = run("onnxruntime", "--worker-python", python, cwd=tmp_path).stdout
    assert "Runtime of workers" in table and table.count("missing") == 1
    assert f"onnxruntime cannot be used by {python}: ModuleNotFoundError: " in table
    assert "to install it: pip install onnxruntime, or onnxruntime-gpu" in table


def test_an_engine_from_outside(tmp_path, mine):
    mine("Mine")
    done = run("mine:Mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("mine:Mine"))
    assert row.split() == ["mine:Mine", ".bin", "gpu,", "cpu", "missing"]
    assert "Options of mine:Mine: size (int or float)\n" in done.stdout
    assert "No module named 'no_such_runtime'; to install it: pip install no-such-runtime\n" in done.stdout
    assert "onnxruntime" not in done.stdout


def test_an_engine_that_is_not_there(tmp_path):
    done = run("mine:Mine", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("ascend-parallel: error: the engine mine:Mine cannot be imported by")
    done = run("--worker-python", "/no/python", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--worker-python='/no/python' is not an executable" in done.stderr


def test_a_runtime_that_prints_crashes_or_leaves(mine, leaves_nothing):
    talks, crashes, leaves = list_engines([mine("Talks"), mine("Crashes"), mine("Leaves")])
    assert talks.here == RuntimeInfo(sys.executable, f"python 3.{sys.version_info[1]}", "")
    assert crashes.here == RuntimeInfo(sys.executable, "", "its import ended with SIGABRT: a line")
    assert leaves.here.error == "SystemExit: no licence"
    assert [info.here.state for info in (talks, crashes, leaves)] == [talks.here.found, "fails", "fails"]


def test_a_runtime_that_hangs_is_ended_with_what_it_started(mine, leaves_nothing):
    started_s = time.monotonic()
    hangs, talks = list_engines([mine("Hangs"), mine("Talks")], timeout_s=3)
    assert hangs.here.error == "its import did not end in 3 s"
    assert talks.here.found
    assert time.monotonic() - started_s < 20
    assert not procs.children()


def test_ctrl_c_ends_all(mine, leaves_nothing, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_list._Probe, "finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list_engines([mine("Hangs"), mine("Talks")])
    assert not procs.children()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("#!/bin/sh\nexit 0\n", "its import ended with exit code 0"),
        ("#!/bin/sh\necho no python >&2; exit 3\n", "its import ended with exit code 3: no python"),
        ("#!/no/such/shell\n", "cannot be run: No such file or directory"),
    ],
)
def test_what_is_no_python(tmp_path, program, words):
    python = tmp_path / "python"
    python.write_text(program)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (info,) = list_engines(["callable"], python)
    assert info.worker.error.endswith(words)
    assert info.here == RuntimeInfo(sys.executable, "", "") and info.here.state == "none needed"


def test_this_process_stays_clean():
    code = (
        "import sys\n"
        "from ascend_parallel.engine_list import list_engines\n"
        "(info,) = list_engines(['onnxruntime'])\n"
        "print('onnxruntime' in sys.modules, bool(info.here.found))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False True\n", done.stderr


def test_an_unknown_engine():
    with pytest.raises(UsageError, match="engine 'tensorflow' is unknown; expected one of mslite"):
        list_engines(["tensorflow"])


def test_at_80_columns_it_folds(monkeypatch, capsys):
    infos = [
        EngineInfo(
            load_engine(name), RuntimeInfo("python", "", ""), RuntimeInfo("other", "", "ModuleNotFoundError: no [x]")
        )
        for name in PUBLIC_ENGINES
    ]
    monkeypatch.setattr(command, "list_engines", lambda *_: infos)
    monkeypatch.setattr(command, "PIPE_WIDTH_COLUMNS", 80)
    command.engines_command([], None, False)
    printed = capsys.readouterr().out
    table = printed.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    for whole in ("onnxruntime", ".onnx, .ort", "module:factory", "none needed", "missing"):
        assert whole in printed
    assert "onnxruntime cannot be used by other: ModuleNotFoundError: no [x]; to install it" in printed
