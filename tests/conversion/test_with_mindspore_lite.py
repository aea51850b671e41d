"""The real MindSpore Lite converter and runtime: models are converted, verified, run over two workers, and compared."""

import json
import os
import resource
import shutil
import subprocess
import sys

import models
import numpy as np
import onnx
import pytest
from converting import TINY, command, contents
from models import mslite_python
from onnx import numpy_helper

from ascend_parallel import ConversionError, DiskError, ParallelPredictUtils, UsageError, convert
from ascend_parallel.conversion.converter import find_runtime

pytestmark = pytest.mark.mslite

#: The accepted difference of an output, relative to its range; the largest measured one is 3e-6.
TOLERANCE = 1e-4
MODELS = {
    "tiny text encoder": (lambda: TINY / "text_encoder" / "model.onnx", {"input_ids": (77,)}),
    "tiny U-Net": (
        lambda: TINY / "unet" / "model.onnx",
        {"sample": (4, 8, 8), "timestep": (), "encoder_hidden_states": (77, 48)},
    ),
    "tiny decoder": (lambda: TINY / "vae_decoder" / "model.onnx", {"latent_sample": (4, 8, 8)}),
    "MLP": (models.mlp, {"x": (8,)}),
    "CNN with pooling": (models.small_cnn, {"x": (3, 8, 8)}),
    "encoder of int64 ids": (models.encoder, {"ids": (6,), "mask": (6,)}),
    "two inputs, two outputs": (models.two, {"a": (4,), "b": (4,)}),
}
ROWS = 4


@pytest.fixture
def python(here):
    return mslite_python()


def draw(shapes):
    """Return four random rows of each input."""
    random = np.random.default_rng(0)
    numbers = {"input_ids": 500, "ids": 10, "mask": 2, "timestep": 10}
    return {
        name: random.integers(0, numbers[name], (ROWS, *shape))
        if name in numbers
        else random.standard_normal((ROWS, *shape), np.float32)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize(("make", "shapes"), MODELS.values(), ids=MODELS)
def test_converted_verified_and_run_over_two_workers(here, python, make, shapes):
    lines = []
    (file,) = convert(
        make(),
        devices="cpu:0,1",
        batch_per_device=[2],
        worker_python=python,
        verify=True,
        tolerance=TOLERANCE,
        show=lines.append,
    )
    assert all("largest difference" in line for line in lines[1:])
    feeds = draw(shapes)
    expected = models.run_onnx(make(), feeds)
    assert [line.partition(":")[0] for line in lines[1:]] == list(expected)
    with ParallelPredictUtils(file, devices="cpu:0,1", worker_python=python) as runner:
        assert [spec.shape for spec in runner.inputs] == [(2, *shape) for shape in shapes.values()]
        actual = runner.predict(feeds)
        used = [worker["tasks"] for worker in runner.stats()["workers"].values()]
    assert len(used) == 2 and sum(used) == 2
    for name, value in expected.items():
        assert abs(actual[name] - value).max() <= TOLERANCE * np.ptp(value)


def test_the_batch_of_a_fixed_model_is_divided(here, python):
    (file,) = convert(models.unet(2), devices="cpu:0,1", worker_python=python, verify=True)
    assert file.name == "unet_2_1_False_bs1.mindir"
    manifest = json.loads((here / f"{file.name}.json").read_text())
    assert [item["shape"] for item in manifest["inputs"]] == [[1, 2, 4, 4], [1], [1, 3, 4]]


def test_the_printed_command_of_the_python_converter_works(here, python):
    done = command("convert", models.two(), "--devices", "cpu:0", "--batch-per-device", 1, "--worker-python", python)
    assert done.returncode == 0, done.stderr
    mindir = here / "two_batch_bs1.mindir"
    before = mindir.read_bytes()
    mindir.unlink()
    subprocess.run(done.stdout, shell=True, check=True, capture_output=True, timeout=60)
    assert len(mindir.read_bytes()) == len(before)


def test_the_rewriting_is_reported(here, python):
    words = ("--devices", "cpu:0", "--batch-per-device", 1, "--worker-python", python, "--verify")
    done = command("convert", models.small_cnn(), *words)
    assert done.returncode == 0, done.stderr
    assert "for MindSpore Lite's CPU kernels: 1 Conv, 1 MaxPool" in done.stderr
    assert "y: largest difference" in done.stdout.splitlines()[-1]
    manifest = json.loads((here / "small_cnn_batch_bs1.mindir.json").read_text())
    assert (manifest["changes"], manifest["converter_version"]) == ({"Conv": 1, "MaxPool": 1}, "2.0.0")


def test_a_model_that_computes_other_numbers_is_detected_and_deleted(here, python, converter_lite):
    """The stand-in behaves like a converter that changes the weights."""
    model = onnx.load(models.mlp())
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "b2")
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) + np.float32(0.5), "b2"))
    onnx.save(model, "wrong.onnx")
    wrong = models.convert(here / "wrong.onnx", {"x": [2, 8]})
    converter_lite.set_commands(f'cp {wrong} "$output.mindir"')
    shutil.copy(models.mlp(), "m.onnx")
    before = contents(here)
    words = ("convert", "m.onnx", "--devices", "cpu:0", "--batch-per-device", 2, "--worker-python", python, "--verify")
    done = command(*words)
    assert done.returncode == 7
    assert "m_bs2.mindir does not compute the same as m.onnx: y: largest difference 0.5" in done.stderr
    assert contents(here) == before
    done = command(*words, "--tolerance", 1)
    assert done.returncode == 0, done.stderr
    assert "m_bs2.mindir" in contents(here)
    done = command(*words)  # it is up to date, and differs
    assert done.returncode == 7
    assert done.stdout == "m_bs2.mindir is up to date\n"


def test_an_unsupported_operator_is_named(here, python):
    with pytest.raises(ConversionError, match="it does not support the operator Det$") as caught:
        convert(models.determinant(), devices="cpu:0", batch_per_device=[1], worker_python=python)
    assert "UNSUPPORTED OP LIST" in caught.value.log
    assert contents(here) == []


def test_a_missing_cann_is_reported(here, python):
    with pytest.raises(ConversionError, match="CANN's libraries are not found: source CANN's set_env.sh"):
        convert(models.mlp(2), devices="ascend:0,1", worker_python=python)
    assert contents(here) == []


def test_a_full_disk_leaves_nothing(here, python):
    """A limit on the size of files causes the same error in the converter, and needs no file system of its own."""
    onnx_file = large_model(here)
    code = f"""
import signal, resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, {resource.RLIM_INFINITY}))
from ascend_parallel import convert, DiskError
try:
    convert({str(onnx_file)!r}, devices="cpu:0", batch_per_device=[1], worker_python={python!r}, output="out")
except DiskError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.startswith("out/large_bs1.mindir could not be written by the converter"), done.stderr
    assert contents(here) == ["large.onnx"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_full_file_system_leaves_nothing(here, python):
    onnx_file = large_model(here)
    disk = here / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True).returncode:
        pytest.skip("root is not allowed to mount file systems here")
    try:
        with pytest.raises(DiskError, match=r"large_bs1\.mindir could not be written: no space is left on the disk"):
            convert(onnx_file, devices="cpu:0", batch_per_device=[1], worker_python=python, output=disk)
        assert contents(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def large_model(here):
    """Write a model of 4 MB."""
    file = here / "large.onnx"
    model = onnx.load(models.linear())
    node = model.graph.node[0]
    assert node.op_type == "MatMul"
    for value, size in ((model.graph.input[0], 1000), (model.graph.output[0], 1000)):
        value.type.tensor_type.shape.dim[1].dim_value = size
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(models.weights(1000, 1000), "w"))
    onnx.save(model, file)
    return file


def test_the_version_is_found(python):
    assert find_runtime(python, "") == "2.0.0"


def test_an_interpreter_without_mindspore_lite_is_reported(here):
    with pytest.raises(UsageError, match="there is no converter: .* cannot import mindspore_lite .*No module named"):
        convert(models.mlp(2), devices="cpu:0,1")
