"""The real onnxruntime-openvino, in a Python of its own: OpenVINO runs on any x86-64 CPU."""

import subprocess
import sys
from pathlib import Path

import models
import numpy as np
import pytest
from conftest import feeds_for
from faults import procs

from ascend_parallel import EngineError, ParallelPredictUtils, UsageError, parallel_map
from ascend_parallel.worker.engines import providers

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


@pytest.mark.parametrize(
    ("devices", "options"),
    [
        ("openvino:0,1", {}),
        ("cpu:0,1", {"provider": "openvino"}),
        ("cpu:0,1", {"provider": "OpenVINOExecutionProvider"}),
    ],
)
def test_two_workers_give_the_numbers_of_the_cpu_provider(python, devices, options):
    paths = {name: make() for name, (make, _) in CASES.items()}
    with ParallelPredictUtils(paths, devices=devices, worker_python=python, engine_options=options) as runner:
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


def test_beside_the_cpu_provider(python):
    """Two ways to run a model on one CPU, at the same time: each device is what its name says."""
    feeds = feeds_for("linear", 7)
    with ParallelPredictUtils(models.linear(), devices="cpu:0,openvino:0", worker_python=python) as runner:
        wanted = models.run_onnx(models.linear(), feeds)["y"]
        np.testing.assert_allclose(runner.predict(feeds)["y"], wanted, rtol=TOLERANCE, atol=TOLERANCE)
        pids = {device: worker["pid"] for device, worker in runner.stats()["workers"].items()}
        maps = {device: Path(f"/proc/{pid}/maps").read_text() for device, pid in pids.items()}
        assert {device: PLUGIN in text for device, text in maps.items()} == {"cpu:0": False, "openvino:0": True}


def test_the_worker_s_share_of_the_cores_is_openvino_s_too(python):
    """Else each worker would have as many threads as there are cores."""
    counts = []
    for threads in (1, 2):
        with ParallelPredictUtils(
            models.cnn(), devices="openvino:0", worker_python=python, engine_options={"threads": threads}
        ) as runner:
            runner.predict(cnn_feeds())
            counts.append(len(list(Path(f"/proc/{runner.stats()['workers']['openvino:0']['pid']}/task").iterdir())))
    assert counts[1] == counts[0] + 2, "one of ONNX Runtime's, one of OpenVINO's"


def half(precision):
    """Return whether this CPU computes in it; where it does not, check that it is refused."""
    if not providers.why_not_precision(precision, {"": "fp32"}, "openvino", {}):
        return True
    with pytest.raises(UsageError, match="this CPU has no instructions for it"):
        ParallelPredictUtils(models.cnn(), devices="openvino:0", precision=precision)
    return False


@pytest.mark.parametrize(("precision", "bits"), [("fp32", 24), ("bf16", 8), ("fp16", 11)])
def test_a_float_model_is_computed_in_the_precision_that_was_asked_for(python, precision, bits):
    if not half(precision):
        return
    wanted = models.run_onnx(models.cnn(), cnn_feeds())["y"]
    with ParallelPredictUtils(
        models.cnn(), devices="openvino:0,1", worker_python=python, precision=precision
    ) as runner:
        difference = np.abs(runner.predict(cnn_feeds())["y"] - wanted).max() / np.ptp(wanted)
    assert difference < 2.0 ** (3 - bits)
    assert precision == "fp32" or difference > 2.0 ** (-3 - bits), "it is not float32 in disguise"


def test_map_and_its_threads_of_one_session(python, tmp_path):
    if not half("bf16"):
        return
    rows = cnn_feeds()["x"]
    for number, row in enumerate(rows):
        np.save(tmp_path / f"{number}.npy", row)
    options = {"devices": "openvino:0", "instances_per_device": 2, "precision": "bf16", "worker_python": python}
    outcomes = list(parallel_map(str(models.cnn()), tmp_path, **options))
    assert all(outcome.ok and outcome.device == "openvino:0" for outcome in outcomes), outcomes
    wanted = models.run_onnx(models.cnn(), {"x": rows})["y"]
    difference = np.abs(np.stack([outcome.results[0]["y"] for outcome in outcomes]) - wanted).max() / np.ptp(wanted)
    assert 2.0**-11 < difference < 2.0**-5


@pytest.mark.parametrize(("precision", "make"), [("fp32", models.linear_fp16), ("int8", models.linear_int8)])
def test_files_of_other_precisions(python, precision, make):
    x = (
        np.random.default_rng(0)
        .standard_normal((7, 8))
        .astype(np.float16 if make is models.linear_fp16 else np.float32)
    )
    wanted = models.run_onnx(make(), {"x": x})["y"]
    with ParallelPredictUtils(make(), devices="openvino:0", worker_python=python, precision=precision) as runner:
        np.testing.assert_allclose(runner.predict({"x": x})["y"], wanted, rtol=0, atol=2e-3 * np.ptp(wanted))


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
