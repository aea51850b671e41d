"""The real onnxruntime-cann, in a Python where the extra ``cann`` has installed it; no CANN is there."""

import os
import re
import subprocess
from pathlib import Path

import models
import numpy as np
import pytest

import ascend_parallel
from ascend_parallel import EngineError, ParallelPredictUtils
from ascend_parallel.devices import Discovery
from ascend_parallel.engine_list import list_engines

pytestmark = pytest.mark.cann

ROOT = Path(ascend_parallel.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def python():
    return models.vendor_python("CANN_PYTHON", "onnxruntime-cann")


@pytest.fixture
def numpy_2(python, monkeypatch):
    """Let workers of that Python find numpy 2 first."""
    folder = Path(python).parents[1] / "numpy2"
    assert (folder / "numpy").is_dir(), "make cann puts it there"
    monkeypatch.setenv("PYTHONPATH", str(folder))


def run(*words, cwd):
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*map(str, words)], cwd=cwd, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_the_extra_brings_a_numpy_with_which_onnxruntime_can_be_imported(python, tmp_path):
    code = (
        "import importlib.metadata, numpy, onnxruntime\n"
        "print(numpy.__version__, *onnxruntime.get_available_providers())\n"
        "print(*importlib.metadata.requires('ascend-parallel'), sep='\\n')\n"
    )
    first, *requirements = run(python, "-c", code, cwd=tmp_path).splitlines()
    version, *providers = first.split()
    assert int(version.split(".")[0]) == 1
    assert "CANNExecutionProvider" in providers
    assert [line for line in requirements if re.fullmatch(r"numpy<2; extra == .cann.", line)]


def test_the_command_line_works_with_numpy_1(python, tmp_path):
    program = Path(python).with_name("ascend-parallel")
    assert "cpu:0" in run(program, "devices", cwd=tmp_path)
    assert re.search(r"onnxruntime [\d.]+ \(.*cann\)", run(program, "engines", cwd=tmp_path))
    x = normal(7, 8)
    np.savez(tmp_path / "in.npz", x=x)
    files = ["--input", "in.npz", "--output", "out.npz"]
    run(program, "run", "sim", "--engine", "simulated", "--devices", "simulated:0,1", *files, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["output"], x)
    run(program, "run", models.linear(), "--devices", "cpu:0,1", *files, cwd=tmp_path)
    wanted = models.run_onnx(models.linear(), {"x": x})["y"]
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["y"], wanted, atol=1e-5)


@pytest.mark.parametrize("provider", ["cann", "CANNExecutionProvider"])
def test_without_cann_the_missing_library_is_named(python, monkeypatch, provider):
    """ONNX Runtime itself goes on, on the CPU."""
    monkeypatch.setattr("ascend_parallel.devices.discovery.discover", Discovery)  # nothing is known of the hardware
    words = (
        r"ascend:0 failed while building .*could not start CANNExecutionProvider and would run on the CPU: "
        r"libascendcl\.so: cannot open shared object file.*set_env\.sh"
    )
    with pytest.raises(EngineError, match=words):
        ParallelPredictUtils(
            models.linear(), devices="ascend:0", worker_python=python, engine_options={"provider": provider}
        ).build_model()


def test_numpy_2_is_named_as_the_cause(python, numpy_2):
    words = (
        rf"cpu:0 failed .*onnxruntime cannot be imported by {re.escape(python)} \(import numpy failed\): it was built "
        r'against numpy 1, and numpy 2\.[\d.]+ is there; install "numpy<2" there'
    )
    with pytest.raises(EngineError, match=words) as caught:
        ParallelPredictUtils(models.linear(), devices="cpu:0", worker_python=python).build_model()
    assert "install onnxruntime" not in str(caught.value), "it is installed"


def test_numpy_2_is_named_by_the_list_of_engines(python, numpy_2):
    (info,) = list_engines(["onnxruntime"], worker_python=python)
    assert info.worker.state == "fails"
    assert "built against numpy 1, and numpy 2." in info.worker.error
