"""Vendors' own builds of ONNX Runtime, each in a Python of its own: what works without their hardware."""

import os
import subprocess
import textwrap
from pathlib import Path

import models
import numpy as np
import pytest

from ascend_parallel import EngineError, ParallelPredictUtils


def run(python, *words, **environ):
    return subprocess.run(
        [python, *map(str, words)], capture_output=True, text=True, timeout=60, env={**os.environ, **environ}
    )


def site_packages(python):
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())


# ---- onnxruntime-cann, installed by the extra


@pytest.fixture
def cann():
    return models.python_with("CANN_PYTHON", "onnxruntime-cann")


BUILD = """
import sys
from ascend_parallel.worker.engines.onnxruntime import OnnxRuntimeEngine
try:
    OnnxRuntimeEngine(sys.argv[1], ("ascend", 0), {})
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.cann
def test_the_extra_brings_a_numpy_that_onnxruntime_cann_can_be_imported_with(cann):
    code = "import numpy, onnxruntime as o; print(numpy.__version__.split('.')[0], o.get_available_providers())"
    assert run(cann, "-c", code).stdout == "1 ['CANNExecutionProvider', 'CPUExecutionProvider']\n"


@pytest.mark.cann
def test_the_package_works_with_numpy_1(cann, tmp_path):
    assert run(cann, "-m", "ascend_parallel", "devices").returncode == 0
    program = """
        import numpy as np
        from ascend_parallel import ParallelPredictUtils
        for workers in ("processes", "threads"):
            with ParallelPredictUtils("s", engine="simulated", devices="simulated:0,1", workers=workers) as runner:
                x = np.arange(12.0).reshape(4, 3)
                assert (runner.predict({"x": x})["output"] == x).all()
        print("right")
    """
    done = run(cann, "-c", textwrap.dedent(program))
    assert done.stdout == "right\n", done.stderr


@pytest.mark.cann
def test_without_cann_it_is_refused_and_the_missing_library_is_named(cann):
    """ONNX Runtime itself would go on with the CPU."""
    done = run(cann, "-c", BUILD, models.linear())
    assert "RuntimeError onnxruntime could not start CANNExecutionProvider and would run on the CPU" in done.stdout
    assert "libascendcl.so of CANN is often not found (source CANN's set_env.sh)" in done.stdout
    assert "libascendcl.so: cannot open shared object file" in done.stderr  # the lines that the message points to


@pytest.mark.cann
@pytest.mark.openvino
def test_with_numpy_2_the_true_reason_is_told(cann, tmp_path):
    """The numpy of the other venv, which has the same Python, takes the place of its own."""
    other = site_packages(models.python_with("OPENVINO_PYTHON", "onnxruntime-openvino"))
    for name in ("numpy", "numpy.libs"):
        (tmp_path / name).symlink_to(other / name)
    done = run(cann, "-c", BUILD, models.linear(), PYTHONPATH=str(tmp_path))
    assert "ImportError onnxruntime-cann is built against numpy 1 and cannot be imported by" in done.stdout, done.stderr
    assert "-m pip install 'numpy<2'" in done.stdout


# ---- onnxruntime-openvino, which really runs on CPUs


@pytest.fixture
def openvino():
    return models.python_with("OPENVINO_PYTHON", "onnxruntime-openvino")


@pytest.mark.openvino
@pytest.mark.parametrize("provider", ["openvino", "OpenVINOExecutionProvider"])
def test_openvino_computes_the_same_on_two_workers(openvino, provider):
    x = np.random.default_rng(0).standard_normal((7, 8)).astype(np.float32)
    with ParallelPredictUtils(
        models.linear(),
        devices="cpu:0,1",
        worker_python=openvino,
        engine_options={"provider": provider},
        chunk_size=2,
    ) as runner:
        for _ in range(2):
            found = runner.predict({"x": x})["y"]
            np.testing.assert_allclose(found, models.run_onnx(models.linear(), {"x": x})["y"], atol=1e-2)
        assert all(worker["tasks"] > 0 for worker in runner.stats()["workers"].values())


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        ("CUDAExecutionProvider", "'CUDAExecutionProvider' does not run on cpu devices; expected one of cpu, openvino"),
        ("cudnn", "provider 'cudnn' is unknown; expected one of cpu, openvino"),
        ("OpenVINO", "has no OpenVINOExecutionProvider .*install onnxruntime-openvino in place of onnxruntime"),
    ],
)
def test_providers_that_cannot_be(provider, words):
    with pytest.raises(EngineError, match=words):
        ParallelPredictUtils(models.linear(), devices="cpu", engine_options={"provider": provider}).build_model()


def test_the_cpu_provider_by_its_whole_name():
    options = {"provider": "CPUExecutionProvider"}
    with ParallelPredictUtils(models.linear(), devices="cpu", engine_options=options) as runner:
        x = np.ones((2, 8), np.float32)
        np.testing.assert_array_equal(runner.predict({"x": x})["y"], models.run_onnx(models.linear(), {"x": x})["y"])
