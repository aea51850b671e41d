"""ONNX Runtime on a real NVIDIA GPU: its CUDA and TensorRT providers. ``make test-gpu`` runs them."""

import os
import signal
import subprocess

import models
import numpy as np
import pytest
from conftest import feeds_for
from faults import procs

from ascend_parallel import ParallelPredictUtils, WorkerDied, discover

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]  # TensorRT builds an engine for each shape

DEVICE = "gpu:0"
#: Of a GPU's float32 from that of ONNX Runtime's CPU provider: convolutions and products may use TF32.
TOLERANCE = 5e-3
#: What a CUDA context alone takes is more, and what other programs change meanwhile is hoped to be less.
CONTEXT_MB = 100


@pytest.fixture(scope="module")
def python():
    """Return the Python that has onnxruntime-gpu; without a GPU, skip: CI has none."""
    path = os.environ.get("GPU_PYTHON")
    if not path:
        pytest.skip("GPU_PYTHON is not set: make test-gpu sets it, on a machine with an NVIDIA GPU")
    if DEVICE not in map(str, (found.device for found in discover().devices)):
        pytest.fail(f"GPU_PYTHON is set, but there is no {DEVICE} here (ascend-parallel devices)")
    return path


@pytest.fixture(params=["cuda", "tensorrt"])
def provider(request, python):
    code = "import onnxruntime; print(*onnxruntime.get_available_providers())"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    if request.param not in done.stdout.lower():
        pytest.skip(f"the onnxruntime of GPU_PYTHON was built without {request.param}")
    return request.param


def make(path, python, provider, **options):
    return ParallelPredictUtils(
        path, devices=DEVICE, worker_python=python, engine_options={"provider": provider}, **options
    )


def cnn_feeds(rows=7):
    return {"x": np.random.default_rng(0).standard_normal((rows, 3, 32, 32)).astype(np.float32)}


CASES = {
    "linear": (models.linear, feeds_for("linear", 7)),
    "two": (models.two, feeds_for("two", 7)),
    "layer_norm": (models.layer_norm, feeds_for("layer_norm", 7)),
    "cnn": (models.cnn, cnn_feeds()),
}


def assert_close(got, wanted):
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(got[name], array, rtol=0, atol=TOLERANCE * max(1.0, np.ptp(array)))


@pytest.mark.parametrize("instances", [1, 2])
def test_the_numbers_are_those_of_the_cpu_provider(python, provider, instances):
    paths = {name: case[0]() for name, case in CASES.items()}
    with make(paths, python, provider, instances=instances) as runner:
        for name, (_, feeds) in CASES.items():
            wanted = models.run_onnx(paths[name], feeds)
            for _ in range(3):  # shapes not known, learned, and remembered
                assert_close(runner.predict(feeds, model=name), wanted)


def test_two_workers_on_one_gpu(python, provider):
    """Two runners hold a worker each on the same GPU, and compute at the same time."""
    path, feeds = models.cnn(), cnn_feeds()
    wanted = models.run_onnx(path, feeds)
    with make(path, python, provider) as first, make(path, python, provider) as second:
        assert len(procs.children()) == 2
        for future in [runner.submit(feeds) for _ in range(10) for runner in (first, second)]:
            assert_close(future.result(60), wanted)


def test_a_killed_worker_gives_its_memory_back(python, provider):
    path, feeds = models.cnn(), cnn_feeds()
    before = used_mb()
    with make(path, python, provider, max_restarts=0, max_retries=0) as runner:
        runner.predict(feeds)
        assert used_mb() >= before + CONTEXT_MB
        (worker,) = procs.children()
        os.kill(worker, signal.SIGKILL)
        procs.wait_until(lambda: used_mb() < before + CONTEXT_MB, "the memory of the GPU given back", 30)
        with pytest.raises(WorkerDied, match="SIGKILL"):
            runner.predict(feeds)


def test_a_worker_that_is_killed_is_replaced(python, provider):
    path, feeds = models.cnn(), cnn_feeds()
    wanted = models.run_onnx(path, feeds)
    with make(path, python, provider) as runner:
        (worker,) = procs.children()
        os.kill(worker, signal.SIGKILL)
        assert_close(runner.predict(feeds), wanted)
        assert procs.children() != [worker]


def used_mb():
    """Return the used memory of the first visible GPU, in MiB."""
    (found,) = [found for found in discover().devices if str(found.device) == DEVICE]
    return found.memory_used_mb
