"""Rewritten graphs compute the same, and models that would be computed wrongly are refused."""

import sys

import models
import numpy as np
import onnx
import onnxruntime
import pytest
from converting import TINY, contents
from onnx import TensorProto, helper, numpy_helper

from ascend_parallel import UsageError, convert
from ascend_parallel.conversion.cpu_rewrite import check_size, needs_rewrite, rewrite_for_cpu
from ascend_parallel.conversion.onnx_file import read_onnx

#: The accepted difference of a rewritten graph in ONNX Runtime: the last bits of numbers of about 1.
ROUNDING = 2e-5


def read_inputs(path):
    return read_onnx(path).inputs


def fixed_shapes(file, rows):
    """Return the inputs' shapes with this number of rows."""
    return {spec.name: [dim if isinstance(dim, int) else rows for dim in spec.shape] for spec in read_inputs(file)}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["text_encoder", "unet", "vae_decoder"])
def test_a_rewritten_model_computes_the_same(name, rows):
    file = TINY / name / "model.onnx"
    model = onnx.load(file)
    shapes = fixed_shapes(file, rows)
    rng = np.random.default_rng(rows)
    feeds = {
        spec.name: rng.integers(0, 500, shapes[spec.name])
        if spec.dtype == "int64"
        else rng.standard_normal(shapes[spec.name], np.float32)
        for spec in read_inputs(file)
    }
    before = onnxruntime.InferenceSession(file).run(None, feeds)
    after = onnxruntime.InferenceSession(rewrite_for_cpu(model, shapes).model.SerializeToString()).run(None, feeds)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old, rtol=ROUNDING, atol=ROUNDING)


def one_node(op_type, *, constants=(), opset=13, shape=(1, 4, 6), **attributes):
    inputs = ["x", *dict(constants)]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape[1:]])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *shape[1:]])
    weights = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in dict(constants).items()]
    graph = helper.make_graph(
        [helper.make_node(op_type, inputs, ["y"], **attributes)], "one", [value], [result], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("shape", [(1, 4, 6), (1, 4, 6, 6)])
def test_a_group_norm_is_expanded_if_the_kernel_does_not_support_it(shape):
    constants = {"scale": np.ones(4), "bias": np.zeros(4)}
    model = one_node("InstanceNormalization", constants=constants, shape=shape, epsilon=0.25)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    rewritten = rewrite_for_cpu(model, {"x": shape}).model
    assert any(node.op_type == "InstanceNormalization" for node in rewritten.graph.node) == (len(shape) == 4)
    actual = onnxruntime.InferenceSession(rewritten.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            one_node("InstanceNormalization", constants={"scale": np.full(4, 2), "bias": np.zeros(4)}),
            "its own weights",
        ),
        (one_node("LayerNormalization", constants={"scale": np.ones(6)}, opset=17), "export it with opset 16 or less"),
    ],
    ids=["weights", "epsilon"],
)
def test_operators_that_would_be_computed_wrongly_are_refused(model, message):
    with pytest.raises(UsageError, match=message):
        rewrite_for_cpu(model, {"x": [1, 4, 6]})


def test_a_missing_onnxsim_is_reported_before_anything_is_written(here, converter_lite, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    with pytest.raises(UsageError, match=r"onnxsim is needed .*: pip install 'ascend-parallel\[convert\]'"):
        convert(TINY / "unet" / "model.onnx", devices="cpu:0", batch_per_device=[1], output="out")
    assert contents(here) == []
    convert(TINY / "unet" / "model.onnx", devices="ascend:0", batch_per_device=[1])  # Ascend needs no rewriting
    convert(models.small_cnn(), devices="cpu:0", batch_per_device=[1])  # this model has nothing to fold


def run(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def test_convolution_and_pooling_get_the_attributes_that_the_converter_needs(tmp_path):
    file = models.small_cnn()
    x = models.weights(2, 3, 8, 8)
    expected = run(onnx.load(file), x)
    rewritten = rewrite_for_cpu(onnx.load(file), {"x": x.shape})
    assert rewritten.changes == {"Conv": 1, "MaxPool": 1}
    attributes = {item.name for node in rewritten.model.graph.node for item in node.attribute if node.op_type == "Conv"}
    assert {"kernel_shape", "strides", "dilations"} <= attributes
    np.testing.assert_array_equal(run(rewritten.model, x), expected)


def test_a_model_without_special_operators_is_unchanged_and_needs_no_onnxsim(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    file = models.linear()
    assert not needs_rewrite(read_onnx(file).operators)
    assert rewrite_for_cpu(onnx.load(file), {"x": [2, 8]}).changes == {}


def test_a_model_that_is_too_large_to_be_rewritten_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"m\.onnx has 3\.0 GiB .* below 2 GiB .*run the ONNX file itself"):
        check_size(tmp_path / "m.onnx", 3 << 30, frozenset({"Conv"}))
    check_size(tmp_path / "m.onnx", 3 << 30, frozenset({"MatMul"}))
