"""Errors that only a worker can detect, such as a missing package, interpreter or provider: each is one sentence."""

import subprocess
import sys
from pathlib import Path

import models
import pytest
from faults import procs

from ascend_parallel import EngineError, ParallelPredictUtils, UsageError, WorkerDied


@pytest.fixture(autouse=True)
def no_process_is_left():
    before = set(procs.children())
    yield
    assert set(procs.children()) <= before


@pytest.fixture(autouse=True)
def unknown_hardware(monkeypatch):
    """A machine with unknown hardware, so that no device is refused before the start."""
    from ascend_parallel.devices import Discovery

    monkeypatch.setattr("ascend_parallel.devices.discovery.discover", Discovery)


def assert_build_fails(kind, words, model, **options):
    """Assert that a model cannot be built, and that the error's first line matches ``words``."""
    with pytest.raises(kind, match=words) as caught:
        ParallelPredictUtils(model, **{"devices": "cpu", **options}).build_model()
    return caught.value


def interpreter(version):
    """Return an interpreter of pyenv without packages, or skip the test."""
    try:
        prefix = subprocess.run(["pyenv", "prefix", version], capture_output=True, text=True, timeout=20)
    except OSError:
        pytest.skip("there is no pyenv")
    if prefix.returncode:
        pytest.skip(f"pyenv has no Python {version}")
    return str(Path(prefix.stdout.strip()) / "bin" / "python")


def has_module(python, name):
    return subprocess.run([python, "-c", f"import {name}"], capture_output=True, timeout=20).returncode == 0


# ---- interpreters


@pytest.mark.parametrize("version", ["2.7", "3.6"])
def test_an_interpreter_that_is_too_old(version):
    python = interpreter(version)
    error = assert_build_fails(
        WorkerDied, f"{python} is too old: workers need Python 3.7 or newer", models.linear(), worker_python=python
    )
    assert error.device == "cpu:0"


def test_an_interpreter_without_numpy():
    python = interpreter("3.8")
    if has_module(python, "numpy"):
        pytest.skip(f"{python} has numpy")
    assert_build_fails(
        WorkerDied, f"{python} has no numpy: install numpy .* there", models.linear(), worker_python=python
    )


@pytest.mark.parametrize("program", ["/bin/true", "/bin/cat", "/bin/false"])
def test_a_program_that_is_not_an_interpreter(program):
    assert_build_fails(
        WorkerDied, f"{program} may be no Python interpreter .*worker_python", models.linear(), worker_python=program
    )


@pytest.mark.mslite
def test_an_interpreter_without_onnxruntime():
    python = models.mslite_python()
    words = f"cpu:0 failed .*onnxruntime cannot be imported by {python} .*; install onnxruntime there.*worker_python"
    error = assert_build_fails(EngineError, words, models.linear(), worker_python=python)
    assert "ImportError" in error.remote_traceback


def test_an_interpreter_without_mindspore_lite(tmp_path):
    (tmp_path / "x.mindir").write_bytes(b"\n\x050.1.1\x12\tMindSpore*")
    if has_module(sys.executable, "mindspore_lite"):
        pytest.skip("this interpreter itself has mindspore_lite")
    words = f"mindspore_lite cannot be imported by {sys.executable} .*; install its wheel there, .*worker_python"
    assert_build_fails(EngineError, words, tmp_path / "x.mindir")


# ---- devices and providers


@pytest.mark.mslite
def test_no_ascend_for_mindspore_lite():
    model = models.convert(models.linear())
    words = (
        r"ascend:0 failed while building .*mindir with mslite: .*could not build .* on ascend:0 .*Likely: there is no "
        r"Ascend device ascend:0, or CANN's libraries are not found \(source set_env.sh\)"
    )
    assert_build_fails(EngineError, words, model, devices="ascend:0", worker_python=models.mslite_python())


def test_no_cuda_in_this_onnxruntime():
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    words = "gpu:0 failed .*has no CUDAExecutionProvider .*; install onnxruntime-gpu in place of onnxruntime"
    assert_build_fails(EngineError, words, models.linear(), devices="gpu:0")
    words = "gpu:0 failed .*has no TensorrtExecutionProvider .*; install onnxruntime-gpu .and TensorRT. in place"
    assert_build_fails(EngineError, words, models.linear(), devices="gpu:0", engine_options={"provider": "tensorrt"})


@pytest.mark.parametrize(
    ("devices", "provider", "words"),
    [
        ("ascend:0", None, "has no CANNExecutionProvider .*; install onnxruntime-cann in place of onnxruntime"),
        ("cpu", "openvino", "has no OpenVINOExecutionProvider .*; install onnxruntime-openvino in place"),
        ("cpu", "cuda", "provider 'cuda' does not run on cpu devices; expected one of cpu, openvino"),
        ("cpu", "OpenVINOExecutionProvider", "has no OpenVINOExecutionProvider .*; install onnxruntime-openvino in"),
        ("cpu", "CUDAExecutionProvider", "provider 'CUDAExecutionProvider' does not run on cpu devices; expected"),
        ("cpu", "coreml", "provider 'coreml' is unknown; expected one of cpu, openvino"),
    ],
)
def test_providers_that_are_missing(devices, provider, words):
    options = {"engine_options": {"provider": provider}} if provider else {}
    assert_build_fails(EngineError, words, models.linear(), devices=devices, **options)


# ---- models that are broken


def test_a_model_that_is_incomplete(tmp_path):
    (tmp_path / "cut.onnx").write_bytes(models.linear().read_bytes()[:100])
    error = assert_build_fails(
        EngineError, "cpu:0 failed while building .*cut.onnx with onnxruntime: .*", tmp_path / "cut.onnx"
    )
    assert "the file is cut off, or is no ONNX model" in str(error)
    assert "Traceback" in error.remote_traceback


@pytest.mark.mslite
@pytest.mark.parametrize("content", ["cut", "junk"])
def test_a_mindir_that_is_broken(tmp_path, content):
    whole = models.convert(models.linear()).read_bytes()
    path = tmp_path / "broken.mindir"
    path.write_bytes(whole[:200] if content == "cut" else b"hello world" * 100)
    words = "could not build .*broken.mindir on cpu:0 .*Likely: " + (
        "the file is incomplete" if content == "cut" else "the file does not begin like a MINDIR file"
    )
    assert_build_fails(EngineError, words, path, worker_python=models.mslite_python())


def test_a_model_with_strings():
    assert_build_fails(
        EngineError, r"'x' has the type tensor\(string\).*only tensors of numbers and booleans", models.strings()
    )


def test_one_failure_ends_all_workers(tmp_path):
    (tmp_path / "junk.onnx").write_bytes(b"hello world" * 9)
    assert_build_fails(EngineError, "junk.onnx", tmp_path / "junk.onnx", devices="cpu:0-2")


# ---- callables


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nothing", {}, "nothing"),
        ("double", {"factor": 2}, "unexpected keyword argument 'factor'"),
        ("not_callable", {}, "not_callable returned a int; expected an object with a predict method, or a callable"),
    ],
)
def test_invalid_factories(factory, name, options, words):
    assert_build_fails(
        EngineError,
        f"cpu:0 failed while building .*{name} with callable: .*{words}",
        factory(name),
        engine_options=options,
    )


def test_modules_that_do_not_exist():
    assert_build_fails(EngineError, "No module named 'no_such_module'", "no_such_module:factory")
    assert_build_fails(EngineError, "there is no Python file /nowhere/model.py", "/nowhere/model.py:factory")


# ---- batch axes


def test_a_misspelt_batch_axis_ends_all_workers():
    assert_build_fails(UsageError, "batch_axes names 'X', but the model has x, y", models.linear(), batch_axes={"X": 0})


def test_a_chunk_size_other_than_the_model_s():
    words = "chunk_size is 3, but the model takes 2 rows at a time"
    unbuilt = ParallelPredictUtils(models.linear(2), devices="cpu", chunk_size=3)
    with unbuilt as runner, pytest.raises(UsageError, match=words):
        runner.predict({"x": models.weights(6, 8)})
