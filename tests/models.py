"""Small ONNX models for the tests, and their MINDIR twins made by the real MindSpore Lite.

``batch`` is an int for a model that takes so many rows at a time, or a word ("batch") for one that takes any number.
"""

import functools
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

OPSET = 13  # an opset-17 LayerNormalization loses its epsilon in MindSpore Lite 2.0.0
IR_VERSION = 8
FOLDER_PREFIX = "ascend-parallel-models-"

_CONVERT = """
import sys
import mindspore_lite as ms
c = ms.Converter()
c.save_type = ms.ModelType.MINDIR
shapes = eval(sys.argv[3])
if shapes:
    c.input_shape = shapes
c.convert(ms.FmkType.ONNX, sys.argv[1], sys.argv[2])
"""


# ---- the vendors' interpreters


def mslite_python() -> str:
    """Return the Python 3.7 that has the real MindSpore Lite; without one, fail in CI and skip elsewhere."""
    return vendor_python("MSLITE_PYTHON", "mindspore_lite")


def vendor_python(variable: str, package: str) -> str:
    """Return the Python that a variable names; without one, fail in CI and skip elsewhere."""
    return _vendor(variable, "a Python", package)


def vendor_folder(variable: str, package: str) -> str:
    """Return the folder that holds a package apart from all others, in the same way."""
    return _vendor(variable, "a folder", package)


def _vendor(variable: str, kind: str, package: str) -> str:
    value = os.environ.get(variable)
    if value:
        return value
    reason = f"{variable} does not name {kind} with the real {package}"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI is set: these tests must run there")
    pytest.skip(reason)


def convert(onnx_path, input_shape=None) -> Path:
    """Return the .mindir of an .onnx file, next to it; without ``input_shape`` its open axes stay open."""
    target = Path(onnx_path).with_suffix("")
    mindir = target.with_suffix(".mindir")
    if not mindir.exists():
        done = subprocess.run(
            [mslite_python(), "-c", _CONVERT, str(onnx_path), str(target), repr(input_shape or {})],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "GLOG_v": "4"},
        )
        assert mindir.exists(), done.stdout + done.stderr
    return mindir


# ---- the models


@functools.cache
def folder() -> Path:
    """Return a folder for all models of this session; conftest.py removes it at the end."""
    return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))


def _tensor(name, dtype, shape):
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def _save(name, nodes, inputs, outputs, constants=(), opset=OPSET) -> Path:
    path = folder() / f"{name}.onnx"
    if not path.exists():
        initializers = [numpy_helper.from_array(np.asarray(value), key) for key, value in dict(constants).items()]
        graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        onnx.save(model, path)
    return path


def weights(*shape) -> np.ndarray:
    """Return numbers that look random and are the same in every run."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@functools.cache
def linear(batch="batch") -> Path:
    """x (batch, 8) float32 -> y (batch, 5): a matrix product, whose last bits tell whether chunks were the same."""
    return _save(
        f"linear_{batch}",
        [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Relu", ["xw"], ["y"])],
        [_tensor("x", "float32", [batch, 8])],
        [_tensor("y", "float32", [batch, 5])],
        {"w": weights(8, 5)},
    )


@functools.cache
def anchors() -> Path:
    """x (batch, 3) float32 -> y (batch, 3) = -x and anchors (2, 3), a constant."""
    return _save(
        "anchors",
        [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Identity", ["c"], ["anchors"])],
        [_tensor("x", "float32", ["batch", 3])],
        [_tensor("y", "float32", ["batch", 3]), _tensor("anchors", "float32", [2, 3])],
        {"c": weights(2, 3)},
    )


@functools.cache
def linear_fp16(batch="batch") -> Path:
    """:func:`linear` in float16, its input and output too."""
    return _save(
        f"linear_fp16_{batch}",
        [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Relu", ["xw"], ["y"])],
        [_tensor("x", "float16", [batch, 8])],
        [_tensor("y", "float16", [batch, 5])],
        {"w": weights(8, 5).astype(np.float16)},
    )


@functools.cache
def linear_int8(batch="batch") -> Path:
    """:func:`linear`, quantized: x (batch, 8) float32 -> y (batch, 5), by QuantizeLinear and DequantizeLinear."""
    scale = np.float32(abs(weights(8, 5)).max() / 127)
    return _save(
        f"linear_int8_{batch}",
        [
            helper.make_node("QuantizeLinear", ["x", "xs", "zero"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "xs", "zero"], ["xd"]),
            helper.make_node("DequantizeLinear", ["wq", "ws", "zero"], ["wd"]),
            helper.make_node("MatMul", ["xd", "wd"], ["xw"]),
            helper.make_node("Relu", ["xw"], ["y"]),
        ],
        [_tensor("x", "float32", [batch, 8])],
        [_tensor("y", "float32", [batch, 5])],
        {
            "xs": np.array(4 / 127, np.float32),
            "ws": scale,
            "zero": np.array(0, np.int8),
            "wq": np.round(weights(8, 5) / scale).astype(np.int8),
        },
    )


@functools.cache
def two(batch="batch") -> Path:
    """a, b (batch, 4) float32 -> total (batch, 4), product (batch, 4)."""
    shape = [batch, 4]
    return _save(
        f"two_{batch}",
        [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Mul", ["a", "b"], ["product"])],
        [_tensor("a", "float32", shape), _tensor("b", "float32", shape)],
        [_tensor("total", "float32", shape), _tensor("product", "float32", shape)],
    )


@functools.cache
def same(dtype, batch="batch", *, in_floats=False) -> Path:
    """x (batch, 3) -> y (batch, 3): the rows turned round, so that it is no identity that could be optimised away.

    ``in_floats`` computes in float32, for MindSpore Lite, whose CPU kernels do not gather bytes.
    """
    gather = [helper.make_node("Gather", ["x", "order"], ["y"], axis=1)]
    if in_floats:
        gather = [
            helper.make_node("Cast", ["x"], ["xf"], to=TensorProto.FLOAT),
            helper.make_node("Gather", ["xf", "order"], ["yf"], axis=1),
            helper.make_node("Cast", ["yf"], ["y"], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))),
        ]
    return _save(
        f"same_{dtype}_{batch}_{in_floats}",
        gather,
        [_tensor("x", dtype, [batch, 3])],
        [_tensor("y", dtype, [batch, 3])],
        {"order": np.array([2, 1, 0], np.int64)},
    )


@functools.cache
def identity(dtype="float32", batch="batch") -> Path:
    """x (batch, 3) -> y (batch, 3): the output is the input."""
    return _save(
        f"identity_{dtype}_{batch}",
        [helper.make_node("Identity", ["x"], ["y"])],
        [_tensor("x", dtype, [batch, 3])],
        [_tensor("y", dtype, [batch, 3])],
    )


@functools.cache
def unet(batch=1, *, steps=1, opaque=False) -> Path:
    """sample (batch, 2, 4, 4), timestep (steps,), ctx (batch, 3, 4) -> out as sample: the inputs of a small UNet.

    ``opaque`` leaves all axes open, as exporters of diffusion models do.
    """
    sample, ctx = [batch, 2, 4, 4], [batch, 3, 4]
    if opaque:
        sample, ctx = [batch, "channels", "height", "width"], [batch, "tokens", "width4"]
    return _save(
        f"unet_{batch}_{steps}_{opaque}",
        [
            helper.make_node("ReduceMean", ["ctx"], ["mean"], axes=[1], keepdims=1),  # (batch, 1, 4)
            helper.make_node("Reshape", ["mean", "shape"], ["mean4"]),  # (batch, 1, 1, 4)
            helper.make_node("Mul", ["sample", "timestep"], ["scaled"]),
            helper.make_node("Add", ["scaled", "mean4"], ["out"]),
        ],
        [
            _tensor("sample", "float32", sample),
            _tensor("timestep", "float32", [steps]),
            _tensor("ctx", "float32", ctx),
        ],
        [_tensor("out", "float32", sample)],
        {"shape": np.array([-1, 1, 1, 4], np.int64)},
    )


@functools.cache
def loss(batch="batch") -> Path:
    """x (batch, 4) -> y (batch, 4), loss (): an output without a batch axis."""
    return _save(
        f"loss_{batch}",
        [
            helper.make_node("Mul", ["x", "x"], ["y"]),
            helper.make_node("ReduceMean", ["factor"], ["loss"], axes=[0], keepdims=0),
        ],
        [_tensor("x", "float32", [batch, 4])],
        [_tensor("y", "float32", [batch, 4]), _tensor("loss", "float32", [])],
        {"factor": np.array([1.0, 2.0], np.float32)},
    )


@functools.cache
def wide(batch="batch") -> Path:
    """x (batch, width) -> y (batch, width): x * x + x, whatever its width."""
    return _save(
        f"wide_{batch}",
        [helper.make_node("Mul", ["x", "x"], ["square"]), helper.make_node("Add", ["square", "x"], ["y"])],
        [_tensor("x", "float32", [batch, "width"])],
        [_tensor("y", "float32", [batch, "width"])],
    )


@functools.cache
def mean_loss(batch="batch") -> Path:
    """x (batch, 4) -> loss (), the mean of x: no way to put it together."""
    return _save(
        f"mean_loss_{batch}",
        [helper.make_node("ReduceMean", ["x"], ["loss"], axes=[0, 1], keepdims=0)],
        [_tensor("x", "float32", [batch, 4])],
        [_tensor("loss", "float32", [])],
    )


@functools.cache
def nonzero() -> Path:
    """x (batch, 4) -> where (hits, 2) int64: an output whose shape depends on the data."""
    return _save(
        "nonzero",
        [helper.make_node("NonZero", ["x"], ["index"]), helper.make_node("Transpose", ["index"], ["where"])],
        [_tensor("x", "float32", ["batch", 4])],
        [_tensor("where", "int64", ["hits", 2])],
    )


@functools.cache
def repeat() -> Path:
    """x (batch, 3), times (1,) int64 -> y (batch, 3 * times): an output shape that another input decides."""
    return _save(
        "repeat",
        [
            helper.make_node("Concat", ["one", "times"], ["repeats"], axis=0),
            helper.make_node("Tile", ["x", "repeats"], ["y"]),
        ],
        [_tensor("x", "float32", ["batch", 3]), _tensor("times", "int64", [1])],
        [_tensor("y", "float32", ["batch", "wide"])],
        {"one": np.array([1], np.int64)},
    )


@functools.cache
def embed(batch="batch") -> Path:
    """ids (batch, 3) int64 -> y (batch, 3, 4): rows of a table."""
    return _save(
        f"embed_{batch}",
        [helper.make_node("Gather", ["table", "ids"], ["y"], axis=0)],
        [_tensor("ids", "int64", [batch, 3])],
        [_tensor("y", "float32", [batch, 3, 4])],
        {"table": weights(10, 4)},
    )


@functools.cache
def mlp(batch="batch", opset=OPSET) -> Path:
    """x (batch, 8) -> y (batch, 5): two layers."""
    return _save(
        f"mlp_{batch}_{opset}",
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
        ],
        [_tensor("x", "float32", [batch, 8])],
        [_tensor("y", "float32", [batch, 5])],
        {"w1": weights(8, 6), "b1": weights(6), "w2": weights(6, 5), "b2": weights(5)},
        opset,
    )


@functools.cache
def small_cnn(batch="batch") -> Path:
    """x (batch, 3, 8, 8) -> y (batch, 5): convolution and pooling, in as few words as ONNX allows."""
    return _save(
        f"small_cnn_{batch}",
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2], dilations=[1, 1]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "w2", "b2"], ["y"]),
        ],
        [_tensor("x", "float32", [batch, 3, 8, 8])],
        [_tensor("y", "float32", [batch, 5])],
        {"w": weights(4, 3, 3, 3), "b": weights(4), "w2": weights(64, 5), "b2": weights(5)},
    )


@functools.cache
def encoder(batch="batch") -> Path:
    """ids (batch, 6) int64, mask (batch, 6) int64 -> y (batch, 6, 4): embedding, masked, and LayerNorm."""
    axes = {"axes": [-1], "keepdims": 1}
    return _save(
        f"encoder_{batch}",
        [
            helper.make_node("Gather", ["table", "ids"], ["e"], axis=0),
            helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["m", "last"], ["m3"]),
            helper.make_node("Mul", ["e", "m3"], ["x"]),
            helper.make_node("ReduceMean", ["x"], ["mean"], **axes),
            helper.make_node("Sub", ["x", "mean"], ["d"]),
            helper.make_node("Mul", ["d", "d"], ["q"]),
            helper.make_node("ReduceMean", ["q"], ["v"], **axes),
            helper.make_node("Add", ["v", "epsilon"], ["ve"]),
            helper.make_node("Sqrt", ["ve"], ["s"]),
            helper.make_node("Div", ["d", "s"], ["y"]),
        ],
        [_tensor("ids", "int64", [batch, 6]), _tensor("mask", "int64", [batch, 6])],
        [_tensor("y", "float32", [batch, 6, 4])],
        {"table": weights(10, 4), "last": np.array([2], np.int64), "epsilon": np.array(1e-5, np.float32)},
    )


@functools.cache
def built_in_batch(sizes=(2, -1)) -> Path:
    """x (2, 2, 4) -> y (2, 8): a Reshape that names the batch, or all sizes, as exporters of fixed shapes write it."""
    return _save(
        f"built_in_batch_{sizes[1]}",
        [helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("Relu", ["r"], ["y"])],
        [_tensor("x", "float32", [2, 2, 4])],
        [_tensor("y", "float32", [2, 8])],
        {"shape": np.array(sizes, np.int64)},
    )


@functools.cache
def scalars() -> Path:
    """x (), y () -> z (): no axis at all."""
    return _save(
        "scalars",
        [helper.make_node("Add", ["x", "y"], ["z"])],
        [_tensor("x", "float32", []), _tensor("y", "float32", [])],
        [_tensor("z", "float32", [])],
    )


@functools.cache
def determinant(batch="batch") -> Path:
    """x (batch, 3, 3) -> y (batch,): an operator that MindSpore Lite does not have."""
    return _save(
        f"determinant_{batch}",
        [helper.make_node("Det", ["x"], ["y"])],
        [_tensor("x", "float32", [batch, 3, 3])],
        [_tensor("y", "float32", [batch])],
    )


@functools.cache
def sd_unet(batch=2, steps=1) -> Path:
    """The inputs of Stable Diffusion 2.1's U-Net at 512 x 512, of float32, with next to nothing behind them."""
    return _save(
        f"sd_unet_{batch}_{steps}",
        [
            helper.make_node("ReduceMean", ["encoder_hidden_states"], ["mean"], axes=[1, 2], keepdims=1),
            helper.make_node("Unsqueeze", ["mean", "last"], ["mean4"]),
            helper.make_node("Mul", ["sample", "timestep"], ["scaled"]),
            helper.make_node("Add", ["scaled", "mean4"], ["out_sample"]),
        ],
        [
            _tensor("sample", "float32", [batch, 4, 64, 64]),
            _tensor("timestep", "float32", [steps]),
            _tensor("encoder_hidden_states", "float32", [batch, 77, 1024]),
        ],
        [_tensor("out_sample", "float32", [batch, 4, 64, 64])],
        {"last": np.array([3], np.int64)},
    )


@functools.cache
def layer_norm(batch="batch") -> Path:
    """x (batch, 5, 8) -> y: LayerNorm over the last axis, as exporters below opset 17 write it."""
    shape = [batch, 5, 8]
    return _save(
        f"layer_norm_{batch}",
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["d"]),
            helper.make_node("Pow", ["d", "two"], ["q"]),
            helper.make_node("ReduceMean", ["q"], ["v"], axes=[-1], keepdims=1),
            helper.make_node("Add", ["v", "epsilon"], ["ve"]),
            helper.make_node("Sqrt", ["ve"], ["s"]),
            helper.make_node("Div", ["d", "s"], ["n"]),
            helper.make_node("Mul", ["n", "scale"], ["ns"]),
            helper.make_node("Add", ["ns", "shift"], ["y"]),
        ],
        [_tensor("x", "float32", shape)],
        [_tensor("y", "float32", shape)],
        {
            "two": np.array(2, np.float32),
            "epsilon": np.array(1e-5, np.float32),
            "scale": weights(8),
            "shift": weights(1, 8)[0],
        },
    )


@functools.cache
def layer_norm_node() -> Path:
    """x (2, 5, 8) -> y: LayerNorm as one node, as exporters from opset 17 on write it."""
    shape = [2, 5, 8]
    return _save(
        "layer_norm_node",
        [helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["y"], axis=-1, epsilon=1e-5)],
        [_tensor("x", "float32", shape)],
        [_tensor("y", "float32", shape)],
        {"scale": weights(8), "shift": weights(1, 8)[0]},
        opset=17,
    )


@functools.cache
def cnn(batch="batch") -> Path:
    """x (batch, 3, 32, 32) -> y (batch, 10): two convolutions, a mean, a matrix product."""
    return _save(
        f"cnn_{batch}",
        [
            helper.make_node("Conv", ["x", "w1"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w2"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Relu", ["c"], ["d"]),
            helper.make_node("ReduceMean", ["d"], ["e"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["e", "w3"], ["y"]),
        ],
        [_tensor("x", "float32", [batch, 3, 32, 32])],
        [_tensor("y", "float32", [batch, 10])],
        {"w1": weights(16, 3, 3, 3), "w2": weights(32, 16, 3, 3), "w3": weights(32, 10)},
    )


@functools.cache
def steps_first() -> Path:
    """x (steps, batch, 4) -> y (steps, batch, 4), the rows along axis 1."""
    shape = ["steps", "batch", 4]
    return _save(
        "steps_first",
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [_tensor("x", "float32", shape)],
        [_tensor("y", "float32", shape)],
    )


@functools.cache
def heavy_products(layers=8, width=1024) -> Path:
    """x (batch, width) -> y: matrix products of 4 MiB of weights each; the kernels keep them in a layout of theirs."""
    names = ["x", *[f"x{i}" for i in range(1, layers)], "y"]
    nodes = []
    for i in range(layers):
        nodes.append(helper.make_node("MatMul", [names[i], f"w{i}"], [f"p{i}"]))
        nodes.append(helper.make_node("Relu", [f"p{i}"], [names[i + 1]]))
    ends = [[_tensor(name, "float32", ["batch", width])] for name in ("x", "y")]
    scaled = {f"w{i}": np.roll(weights(width, width), i) / width**0.5 for i in range(layers)}
    return _save(f"heavy_products_{layers}_{width}", nodes, *ends, scaled)


@functools.cache
def heavy_convolutions(layers=4, channels=480, size=4) -> Path:
    """x (1, channels, size, size) -> y: convolutions of 8 MB of weights each, normalised, which the optimizer folds."""
    names = ["x", *[f"x{i}" for i in range(1, layers)], "y"]
    nodes, constants = [], {}
    for i in range(layers):
        constants[f"w{i}"] = np.roll(weights(channels, channels, 3, 3), i) / (9 * channels) ** 0.5
        for part in ("scale", "shift", "mean"):
            constants[f"{part}{i}"] = weights(channels)
        constants[f"var{i}"] = np.abs(weights(channels)) + 1
        same = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1}
        normal = [f"{part}{i}" for part in ("scale", "shift", "mean", "var")]
        nodes.append(helper.make_node("Conv", [names[i], f"w{i}"], [f"c{i}"], **same))
        nodes.append(helper.make_node("BatchNormalization", [f"c{i}", *normal], [f"b{i}"]))
        nodes.append(helper.make_node("Relu", [f"b{i}"], [names[i + 1]]))
    ends = [[_tensor(name, "float32", [1, channels, size, size])] for name in ("x", "y")]
    return _save(f"heavy_convolutions_{layers}_{channels}", nodes, *ends, constants)


@functools.cache
def hardmax() -> Path:
    """x (batch, 4) -> MatMul, Relu, Hardmax, MatMul -> y: OpenVINO has no Hardmax."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Relu", ["xw"], ["a"]),
        helper.make_node("Hardmax", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    ends = [[_tensor(name, "float32", ["batch", 4])] for name in ("x", "y")]
    return _save("hardmax", nodes, *ends, {"w": weights(4, 4)})


@functools.cache
def strings() -> Path:
    """x (batch,) of strings -> y: a type that does not travel."""
    return _save(
        "strings",
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, ["batch"])],
    )


def run_onnx(path, feeds) -> dict:
    """Return what ONNX Runtime computes in this process, alone: the reference."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
