"""The real onnxruntime-openvino, in a Python of its own: OpenVINO runs on any x86-64 CPU."""

import subprocess
import sys
from pathlib import Path

import models
import numpy as np
import pytest
from conftest import feeds_for
from faults import procs

from ascend_parallel import EngineError, ParallelPredictUtils

pytestmark = pytest.mark.openvino

#: Of OpenVINO's numbers from those of ONNX Runtime's CPU provider: other kernels, float32.
TOLERANCE = 1e-5
PLUGIN = "libopenvino_intel_cpu_plugin"


@pytest.fixture(scope="module")
def python():
    return models.vendor_python("OPENVINO_PYTHON", "onnxruntime-openvino")


def cnn_feeds():
    return {"x": np.random.default_rng(0).standard_normal((7, 3, 32, 32)).astype(np.float32)}


CASES = {
    "linear": (models.linear, feeds_for("linear", 7)),
    "two": (models.two, feeds_for("two", 7)),
    "layer_norm": (models.layer_norm, feeds_for("layer_norm", 7)),
    "cnn": (models.cnn, cnn_feeds()),
}


@pytest.mark.parametrize("provider", ["openvino", "OpenVINOExecutionProvider"])
def test_two_workers_give_the_numbers_of_the_cpu_provider(python, provider):
    paths = {name: make() for name, (make, _) in CASES.items()}
    with ParallelPredictUtils(
        paths, devices="cpu:0,1", worker_python=python, engine_options={"provider": provider}
    ) as runner:
        for name, (_, feeds) in CASES.items():
            wanted = models.run_onnx(paths[name], feeds)
            for _ in range(3):  # shapes not known, learned, and remembered
                got = runner.predict(feeds, model=name)
                assert got.keys() == wanted.keys()
                for key, array in wanted.items():
                    np.testing.assert_allclose(got[key], array, rtol=TOLERANCE, atol=TOLERANCE)
        workers = procs.children()
        assert len(workers) == 2
        assert all(PLUGIN in Path(f"/proc/{worker}/maps").read_text() for worker in workers), "OpenVINO itself ran"


def test_without_the_option_it_is_the_cpu_provider(python):
    feeds = feeds_for("linear", 7)
    with ParallelPredictUtils(models.linear(), devices="cpu:0", worker_python=python) as runner:
        wanted = models.run_onnx(models.linear(), feeds)["y"]
        np.testing.assert_allclose(runner.predict(feeds)["y"], wanted, rtol=TOLERANCE, atol=TOLERANCE)
        assert not any(PLUGIN in Path(f"/proc/{worker}/maps").read_text() for worker in procs.children())


def test_what_openvino_refuses_does_not_run_on_the_cpu_provider(python):
    options = {"provider": "openvino", "provider_options": {"no_such_option": "1"}}
    words = "could not start OpenVINOExecutionProvider and would run on the CPU: see its lines above .*provider_options"
    with pytest.raises(EngineError, match=words):
        ParallelPredictUtils(
            models.linear(), devices="cpu:0", worker_python=python, engine_options=options
        ).build_model()


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        ("CUDAExecutionProvider", "'CUDAExecutionProvider' does not run on cpu devices; expected one of cpu, openvino"),
        ("cudnn", "provider 'cudnn' is unknown; expected one of cpu, openvino"),
    ],
)
def test_providers_that_cannot_be(provider, words):
    with pytest.raises(EngineError, match=words):
        ParallelPredictUtils(models.linear(), devices="cpu", engine_options={"provider": provider}).build_model()


# ---- nodes that OpenVINO has no kernel for


def openvino(python, **options):
    return {
        "devices": "cpu:0",
        "worker_python": python,
        "engine_options": {"provider": "openvino", **options},
    }


def test_nodes_on_the_cpu_are_told_and_warned_of(python, capfd):
    with ParallelPredictUtils(models.hardmax(), **openvino(python)) as runner:
        assert runner.models[""].assignment == {
            "OpenVINOExecutionProvider": {"MatMul": 2, "Relu": 1},
            "CPUExecutionProvider": {"Hardmax": 1},
        }
    err = capfd.readouterr().err
    words = "warning: 1 of 4 nodes run on the CPU, because OpenVINOExecutionProvider has no kernel for them: Hardmax 1;"
    assert f"[cpu:0] {words}" in err


def test_fallback_allow_is_silent(python, capfd):
    with ParallelPredictUtils(models.hardmax(), **openvino(python, fallback="allow")) as runner:
        assert runner.models[""].assignment["CPUExecutionProvider"] == {"Hardmax": 1}
    assert "warning" not in capfd.readouterr().err


def test_fallback_refuse_is_an_error_for_such_a_model_only(python):
    with pytest.raises(EngineError, match=r"has no kernel for some nodes .* fallback is refuse"):
        ParallelPredictUtils(models.hardmax(), **openvino(python, fallback="refuse")).build_model()
    with ParallelPredictUtils(models.linear(), **openvino(python, fallback="refuse")) as runner:
        assert list(runner.models[""].assignment) == ["OpenVINOExecutionProvider"]


def test_info_shows_the_nodes_of_each_provider(python):
    words = ["info", str(models.hardmax()), "--devices", "cpu:0", "--worker-python", python]
    done = subprocess.run(
        [sys.executable, "-m", "ascend_parallel", *words, "--engine-option", "provider=openvino"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-2:] == [
        "OpenVINOExecutionProvider runs 3 of 4 nodes: MatMul 2, Relu 1",
        "CPUExecutionProvider runs 1 of 4 nodes: Hardmax 1",
    ]
