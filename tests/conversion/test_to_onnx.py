"""``convert --to onnx``: float16 and int8 models by onnxruntime's own tools, on real models."""

import json
import logging
import os
import shutil
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ascend_parallel import ConversionError, ParallelPredictUtils, UsageError, convert
from ascend_parallel.conversion import reduce_precision
from ascend_parallel.conversion.compare_onnx import Spread
from ascend_parallel.model_precision import read_precision

TINY = Path(__file__).parents[2] / "examples/sd21/tiny"


@pytest.fixture(autouse=True)
def in_an_empty_folder(here):
    return here


@pytest.fixture
def samples():
    """Three samples of the inputs of models.cnn, as files."""
    random = np.random.default_rng(0)
    files = [Path(f"sample{i}.npz") for i in range(3)]
    for file in files:
        np.savez(file, x=random.standard_normal((2, 3, 32, 32)).astype(np.float32))
    return files


def to_onnx(model, precision, **options):
    """Convert, and return the result and what was shown."""
    shown = []
    (file,) = convert(model, to="onnx", precision=precision, show=shown.append, **options)
    return file, shown


def share(line):
    """Return the largest difference, relative to the output's range, of a line that verify prints."""
    return float(line.split(", ")[-1].removesuffix(" of its range"))


def nodes(file):
    return [node.op_type for node in onnx.load(file).graph.node]


def dtypes(file):
    graph = onnx.load(file).graph
    return {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]}


# ---- float16

FP16 = {
    "mlp": models.mlp,
    "cnn": models.cnn,
    "encoder": models.encoder,  # an attention mask that is cast to float: onnxconverter-common 1.16 fails on it
    "layer_norm": models.layer_norm,
    "text encoder": lambda: TINY / "text_encoder/model.onnx",
    "VAE": lambda: TINY / "vae_decoder/model.onnx",
}


@pytest.mark.parametrize("make", FP16.values(), ids=FP16)
def test_float16_differs_by_its_rounding(make):
    file, shown = to_onnx(make(), "fp16", output="half.onnx", verify=True)
    assert shown[0].startswith("onnxruntime.transformers.float16.convert_float_to_float16: ")
    assert len(shown) == 1 + len(onnx.load(make()).graph.output)
    assert all(1e-6 < share(line) < 1e-2 for line in shown[1:]), shown
    assert read_precision(str(file)) == "fp16"
    assert dtypes(file) == dtypes(make()), "inputs and outputs stay as they are"
    assert file.stat().st_size < 0.75 * Path(make()).stat().st_size or file.stat().st_size < 2000


def test_a_float16_model_runs_where_fp16_is_asked_for():
    file, _ = to_onnx(models.mlp(), "fp16")
    x = np.ones((4, 8), np.float32)
    with ParallelPredictUtils(file, devices="cpu:0,1", precision="fp16") as runner:
        wanted = models.run_onnx(models.mlp(), {"x": x})["y"]
        np.testing.assert_allclose(runner.predict({"x": x})["y"], wanted, rtol=0, atol=1e-3 * np.ptp(wanted))


# ---- int8


def test_a_transformer_is_quantized_without_samples():
    file, shown = to_onnx(TINY / "text_encoder/model.onnx", "int8", verify=True)
    assert file == Path("model_int8.onnx")
    assert shown[0].startswith("onnxruntime.quantization.quantize_dynamic: ")
    assert all(1e-5 < share(line) < 0.1 for line in shown[1:]), shown
    assert "MatMulInteger" in nodes(file)


def test_a_cnn_is_quantized_on_samples(samples):
    file, shown = to_onnx(models.cnn(), "int8", calibration=samples, verify=True)
    assert shown[0].endswith(", calibrated on 3 samples")
    assert 1e-5 < share(shown[1]) < 0.05
    assert "DequantizeLinear" in nodes(file)
    with ParallelPredictUtils(file, devices="cpu:0,1", precision="int8") as runner:
        assert runner.predict({"x": np.ones((4, 3, 32, 32), np.float32)})["y"].shape == (4, 10)


def test_what_is_no_product_stays_in_float32():
    """A transformer whose additions and normalizations are quantized, as by default, is of little use."""
    random = np.random.default_rng(0)
    for number in range(2):
        np.savez(f"ids{number}.npz", input_ids=random.integers(0, 90, (2, 77)))
    source = TINY / "text_encoder/model.onnx"
    file, shown = to_onnx(source, "int8", calibration=["ids0.npz", "ids1.npz"], verify=True)
    assert all(share(line) < 0.05 for line in shown[1:]), shown
    assert "DequantizeLinear" in nodes(file)


def zero_points(file):
    """Return the types and values of the zero points of activations."""
    graph = onnx.load(file).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [values[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]


def test_activations_are_symmetric_for_tensorrt_only(samples):
    file, _ = to_onnx(models.cnn(), "int8", calibration=samples)
    assert {zero.dtype.name for zero in zero_points(file)} == {"uint8"}, "fast on x86"
    file, shown = to_onnx(models.cnn(), "int8", calibration=samples, devices="tensorrt:0")
    assert shown[0].endswith(", symmetric"), "made again"
    assert all(zero.dtype == np.int8 and zero == 0 for zero in zero_points(file))


def test_weights_have_seven_bits_where_products_may_saturate(samples, monkeypatch):
    largest = []
    for flags in ({"sse2", "avx2"}, {"sse2", "avx2", "avx512_vnni"}, {"fphp"}):
        monkeypatch.setattr(reduce_precision, "read_cpu_flags", lambda flags=flags: flags)
        file, _ = to_onnx(models.cnn(), "int8", calibration=samples)
        arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer]
        weights = [array.astype(int) for array in arrays if array.dtype == np.int8 and array.ndim > 1]
        largest.append(max(abs(array).max() for array in weights))
    assert largest == [64, 127, 127]


def test_the_samples_decide_the_ranges(samples):
    first, _ = to_onnx(models.cnn(), "int8", calibration=samples, output="a")
    np.savez("large.npz", x=np.full((2, 3, 32, 32), 50, np.float32))
    second, _ = to_onnx(models.cnn(), "int8", calibration=[*samples, "large.npz"], output="b")
    assert first.read_bytes() != second.read_bytes()


def test_a_log_of_the_program_gets_no_handler(samples):
    """onnxruntime's tools log by the root logger, which makes a handler where there is none."""
    before, logging.root.handlers = logging.root.handlers, []
    try:
        to_onnx(models.cnn(), "int8", calibration=samples)
        assert logging.root.handlers == []
    finally:
        logging.root.handlers = before


# ---- files


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_weights_in_a_file_of_their_own_stay_there(precision):
    os.mkdir("source")
    model = onnx.load(TINY / "text_encoder/model.onnx")
    onnx.save(model, "source/big.onnx", save_as_external_data=True, location="big.data", size_threshold=1024)
    before = sorted(os.listdir("source"))
    file, _ = to_onnx("source/big.onnx", precision, output="made", verify=True)
    assert sorted(os.listdir("made")) == [file.name, f"{file.name}.data", f"{file.name}.json"]
    assert (file.stat().st_size, os.path.getsize(f"{file}.data")) > (0, 100_000)
    assert sorted(os.listdir("source")) == before
    manifest = json.loads(Path(f"{file}.json").read_text())
    assert [item["path"] for item in manifest["files"]] == [file.name, f"{file.name}.data"]


def test_the_manifest_tells_the_source_and_the_tool():
    shutil.copy(models.mlp(), "model.onnx")
    to_onnx("model.onnx", "fp16", output="made")
    manifest = json.loads(Path("made/model_fp16.onnx.json").read_text())
    told = {key: manifest[key] for key in ("source", "target", "precision", "converter")}
    assert told == {
        "source": "../model.onnx",
        "target": "onnx",
        "precision": "fp16",
        "converter": "onnxruntime.transformers.float16.convert_float_to_float16",
    }


def test_what_is_up_to_date_is_not_made_again(samples):
    file, _ = to_onnx(models.cnn(), "int8", calibration=samples)
    made = file.stat().st_ino
    _, shown = to_onnx(models.cnn(), "int8", calibration=samples, verify=True)
    assert shown[0] == "cnn_batch_int8.onnx is up to date"
    assert "of its range" in shown[1] and file.stat().st_ino == made
    np.savez(samples[0], x=np.ones((2, 3, 32, 32), np.float32))
    _, shown = to_onnx(models.cnn(), "int8", calibration=samples)
    assert "up to date" not in shown[0], "other samples"


def test_a_dry_run_writes_nothing():
    file, shown = to_onnx(models.mlp(), "fp16", dry_run=True, name="half")
    path = models.mlp()
    assert shown == [f"onnxruntime.transformers.float16.convert_float_to_float16: {path} -> half.onnx"]
    assert file == Path("half.onnx") and os.listdir(".") == []


# ---- what fails


def test_a_result_that_differs_too_much_is_not_kept(samples):
    words = r"cnn_batch_int8.onnx does not compute the same as .*: y: largest difference .*; the tolerance is 1e-06"
    with pytest.raises(ConversionError, match=words):
        to_onnx(models.cnn(), "int8", calibration=samples, verify=True, tolerance=1e-6)
    assert sorted(os.listdir(".")) == sorted(map(str, samples))


def test_a_result_that_cannot_be_opened_is_not_kept(monkeypatch):
    """As the tools write for some graphs."""

    def broken(model, output, calibration, symmetric):
        proto = onnx.load(models.linear_fp16())
        proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        onnx.save(proto, output)

    monkeypatch.setitem(reduce_precision.TOOLS, "fp16", reduce_precision.Tool("a.tool", broken))
    with pytest.raises(ConversionError, match="onnxruntime cannot open linear_batch_fp16.onnx, which was just made: "):
        to_onnx(models.linear(), "fp16")
    assert os.listdir(".") == []


def test_an_error_of_the_tool_is_one_line(monkeypatch):
    def fail(*_):
        raise RuntimeError("first line\n  second line")

    monkeypatch.setitem(reduce_precision.TOOLS, "fp16", reduce_precision.Tool("a.tool", fail))
    with pytest.raises(ConversionError, match="a.tool could not convert .*: RuntimeError: first line second line$"):
        to_onnx(models.linear(), "fp16")


@pytest.mark.parametrize(
    ("make", "precision"), [(models.two, "fp16"), (models.two, "int8"), (models.layer_norm, "int8")]
)
def test_a_model_in_which_there_is_nothing_to_convert(make, precision):
    with pytest.raises(
        ConversionError, match=f"found nothing in .* to convert to {precision}: it has no operators with"
    ):
        to_onnx(make(), precision)


X = np.ones((2, 3, 32, 32), np.float32)
SAMPLES = {  # the arrays of a file -> words of the message
    "missing": ({"y": X}, r"s.npz has no 'x', an input of the model \(it has y\)"),
    "empty file": ({}, r"s.npz has no 'x', an input of the model \(it is empty\)"),
    "dtype": (
        {"x": X.astype("float64")},
        r"s.npz has 'x' as float64; the model takes float32: save it with array",
    ),
    "rank": ({"x": X[0]}, r"s.npz has 'x' of shape \[3, 32, 32\]; the model takes \[batch, 3, 32, 32\]"),
    "size": ({"x": X[:, :2]}, r"s.npz has 'x' of shape \[2, 2, 32, 32\]; the model takes \[batch, 3, 32, 32\]"),
    "no row": ({"x": X[:0]}, r"s.npz has 'x' of shape \[0, 3, 32, 32\], without an element"),
    "unknown": ({"x": X, "mask": X}, r"s.npz has 'mask', which is no input; the model's inputs are x"),
    "objects": ({"x": np.array([None])}, r"s.npz is not an .npz file of plain arrays"),
}


@pytest.mark.parametrize(("arrays", "words"), SAMPLES.values(), ids=SAMPLES)
def test_a_wrong_sample_is_one_sentence(arrays, words):
    np.savez("s.npz", **arrays)
    with pytest.raises(UsageError, match=words) as caught:
        to_onnx(models.cnn(), "int8", calibration=["s.npz"])
    assert "\n" not in str(caught.value) and os.listdir(".") == ["s.npz"]


def test_a_sample_that_is_no_npz_file():
    np.save("s.npy", X)
    Path("s.npz").write_text("no")
    for name, words in {"s.npy": "one array without a name", "s.npz": "not an .npz", "t.npz": "no such file"}.items():
        with pytest.raises(UsageError, match=f"{name}.*{words}"):
            to_onnx(models.cnn(), "int8", calibration=[name])


INT8 = {"precision": "int8"}
REFUSED = {
    "no precision": ({"precision": None}, "add --precision fp16 or --precision int8"),
    "bf16": ({"precision": "bf16"}, "--precision is 'bf16'; expected fp16 or int8 with --to onnx"),
    "convolutions": ({"model": models.cnn, **INT8}, "has convolutions, .* give samples of the inputs, --calibration"),
    "not float32": ({"model": models.linear_fp16}, "is an fp16 model; expected one of fp32"),
    "no floats": ({"model": lambda: models.identity("int64")}, "has no numbers of float32; expected one of fp32"),
    "samples for nothing": ({"calibration": ["ones.npz"]}, "--calibration has no effect on fp16 without --verify"),
    "a sample twice": ({**INT8, "calibration": ["ones.npz"] * 2}, "--calibration names ones.npz twice"),
    "devices": ({"devices": "cpu:0"}, "--devices has no effect with --to onnx, except --devices tensorrt:0"),
    "devices without samples": ({"devices": "tensorrt:0", **INT8}, "--devices has no effect"),
    "target": ({"target": "cpu"}, "--target has no effect with --to onnx: leave it out"),
    "batch": ({"batch_per_device": [1]}, "--batch-per-device has no effect with --to onnx"),
    "shape for nothing": ({"input_shape": "x:2,8"}, "--input-shape is for the inputs that --verify generates"),
    "open axes": ({"model": lambda: models.unet(opaque=True), "verify": True}, "has open axes.*--input-shape .sample"),
    "the model itself": ({"output": "model.onnx"}, "--output: model.onnx is the model itself; name another file"),
    "another suffix": ({"output": "x.mindir"}, "--output x.mindir is no name for an ONNX file"),
    "two names": ({"output": "x.onnx", "name": "y"}, "--name and --output x.onnx both name the file"),
    "tolerance": ({"tolerance": 0.1}, "--tolerance has no effect without --verify"),
    "mindir": ({"to": "mindir", "calibration": ["ones.npz"]}, "--calibration is for --to onnx"),
    "another format": ({"to": "onxx"}, "--to is 'onxx'; expected "),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_written(options, words):
    np.savez("ones.npz", x=np.ones((2, 8), np.float32))
    options = {"to": "onnx", "precision": "fp16", **options}
    shutil.copy(options.pop("model", models.mlp)(), "model.onnx")
    with pytest.raises(UsageError, match=words) as caught:
        convert("model.onnx", **options)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(".")) == ["model.onnx", "ones.npz"]


def test_sizes_of_generated_inputs_can_be_given():
    shutil.copy(models.unet("batch", opaque=True), "model.onnx")
    shown = []
    with pytest.raises(ConversionError, match="nothing"):  # all shapes are known; there are no weights
        convert(
            "model.onnx",
            to="onnx",
            precision="fp16",
            verify=True,
            show=shown.append,
            input_shape="sample:3,2,4,4;ctx:3,3,4;timestep:1",
        )


def test_the_range_is_that_of_all_data():
    spread = Spread()
    spread.add(np.array([1.0]), np.array([1.5]))
    spread.add(np.array([11.0, np.inf]), np.array([11.0, np.inf]))
    assert spread.difference("y") == ("y", 0.5, 0.05)
    spread.add(np.array([1.0]), np.array([np.nan]))
    assert np.isnan(spread.difference("y").share)


def test_the_command_line(command_in_process, samples):
    shutil.copy(models.cnn(), "cnn.onnx")
    words = [word for file in samples for word in ("--calibration", file)]
    words += ["--precision", "int8", "--verify"]
    code, out, err = command_in_process(
        "convert", "cnn.onnx", "--to", "onnx", "--precision", "int8", *words, "--verify"
    )
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "onnxruntime.quantization.quantize_static: cnn.onnx -> cnn_int8.onnx, calibrated on 3 samples"
    assert lines[1].startswith("y: largest difference ")
    assert err.startswith("converting cnn.onnx to int8 with onnxruntime ")
    code, out, err = command_in_process("info", "cnn_int8.onnx", "--devices", "cpu:0,1", "--precision", "int8")
    assert code == 0 and "Precision: int8" in out.splitlines()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "int8"], "does not compute in int8; convert it: ascend-parallel convert cnn.onnx --to onnx"),
        (["--devices", "tpu:0"], "unknown device type 'tpu'"),
        (["--engine-option", "thread=1"], "has no option 'thread'"),
    ],
)
def test_info_refuses_what_a_run_would_refuse(command_in_process, words, message):
    shutil.copy(models.cnn(), "cnn.onnx")
    code, out, err = command_in_process("info", "cnn.onnx", *words)
    assert (code, out) == (2, "") and message in err
