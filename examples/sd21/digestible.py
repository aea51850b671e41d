"""Makes an ONNX graph digestible for MindSpore Lite 2.0.0 on the CPU, without changing what it computes.

Each rule below replaces an operator of Stable Diffusion's three models, which the converter or the CPU kernels refuse
or compute wrongly, by others that they take. Found by running the real thing; ONNX Runtime gives the same numbers
before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ascend_parallel import AscendParallelError, UsageError

INSTALL = "pip install 'ascend-parallel[convert]'"


def make_digestible(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """Return a model of fixed shapes that MindSpore Lite converts and runs on the CPU.

    Args:
        model: an ONNX model of opset 16 or less, its weights loaded; it is changed.
        shapes: input name -> shape, with nothing open.

    Raises:
        UsageError: it has an operator that would be computed wrongly, or onnxsim is not installed.
        AscendParallelError: onnxsim failed.
    """
    _check_operators(model)
    fix_shapes(model, shapes)
    graph = _Graph(_simplify(model))
    graph.rewrite(RULES)
    onnx.checker.check_model(graph.model)
    return graph.model


def fix_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the inputs these shapes, and forget those of the outputs, which follow from them."""
    for value in model.graph.input:
        if value.name in shapes:
            _set_shape(value, shapes[value.name])
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.Clear()
    del model.graph.value_info[:]  # inferred for other shapes


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    del value.type.tensor_type.shape.dim[:]
    for size in shape:
        value.type.tensor_type.shape.dim.add().dim_value = size


def _check_operators(model: onnx.ModelProto) -> None:
    if any(node.op_type == "LayerNormalization" for node in model.graph.node):
        raise UsageError(
            "the ONNX model has LayerNormalization nodes, whose epsilon MindSpore Lite ignores; export it with "
            "opset 16 or less"
        )


def _simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold what is constant now that shapes are: chains of Shape ... Reshape and CLIP's mask, which are not taken."""
    try:
        import onnxsim
    except ImportError:
        raise UsageError(f"onnxsim is needed to convert ONNX models for MindSpore Lite: {INSTALL}") from None
    simplified: onnx.ModelProto
    try:
        simplified, is_same = onnxsim.simplify(model)
    except Exception as error:  # its own and protobuf's, of many kinds
        raise AscendParallelError(f"onnxsim could not simplify the ONNX model: {error}") from error
    if not is_same:
        raise UsageError(
            "onnxsim changed what the ONNX model computes; convert it with MindSpore Lite's converter_lite"
        )
    return simplified


class _Graph:
    """A model whose nodes are replaced, one rule an operator."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._graph = model.graph
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self._shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
        }
        self._inputs = {value.name for value in self._graph.input}
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._constants.update((node.output[0], node.attribute[0].t) for node in _constant_nodes(self._graph))
        self._count = 0

    def rewrite(self, rules: Mapping[str, Rule]) -> None:
        """Replace each node by what its operator's rule makes of it."""
        nodes: list[onnx.NodeProto] = []
        for node in list(self._graph.node):
            rule = rules.get(node.op_type)
            nodes += rule(self, node) if rule else [node]
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def shape(self, name: str) -> list[int]:
        """Return the shape of a value; [] where it is not known."""
        return self._shapes.get(name, [])

    def is_input(self, name: str) -> bool:
        """Whether a value is an input of the whole model."""
        return name in self._inputs

    def values(self, name: str) -> NDArray[Any]:
        """Return the values of a constant."""
        return numpy_helper.to_array(self._constants[name])

    def add_constant(self, values: Any, dtype: str) -> str:
        """Add a constant; return its name."""
        name = self.new_name()
        self._graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def new_name(self) -> str:
        """Return a name that nothing in the model has."""
        self._count += 1
        return f"digestible_{self._count}"

    def node(self, op_type: str, inputs: list[str], output: str = "", **attributes: Any) -> onnx.NodeProto:
        """Return a node with a name of its own; its only output has one too, unless told."""
        return helper.make_node(op_type, inputs, [output or self.new_name()], self.new_name(), **attributes)


def _constant_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes that hold a tensor; those of "value_ints" and the like are never weights."""
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            yield node


Rule = Callable[[_Graph, onnx.NodeProto], list[onnx.NodeProto]]


def _drop_dilations(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Dilations of one do nothing, but the converter says "pooling op not support dilations now"."""
    for attribute in list(node.attribute):
        if attribute.name == "dilations" and all(size == 1 for size in attribute.ints):
            node.attribute.remove(attribute)
    return [node]


def _reshape_for_unsqueeze(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Two axes at once are "parse node Unsqueeze failed"; with fixed shapes it is a Reshape."""
    shape = graph.shape(node.output[0])
    return [graph.node("Reshape", [node.input[0], graph.add_constant(shape, "int64")], node.output[0])]


def _spell_out_instance_norm(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """PyTorch exports GroupNorm as one over three axes, which the kernel refuses: "Unsupported tensor shape: 3"."""
    value, scale, bias = node.input
    if len(graph.shape(value)) != 3:
        return [node]
    epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
    mean = graph.node("ReduceMean", [value], axes=[2], keepdims=1)
    centred = graph.node("Sub", [value, mean.output[0]])
    squared = graph.node("Mul", [centred.output[0], centred.output[0]])
    variance = graph.node("ReduceMean", [squared.output[0]], axes=[2], keepdims=1)
    shifted = graph.node("Add", [variance.output[0], graph.add_constant([epsilon], "float32")])
    deviation = graph.node("Sqrt", [shifted.output[0]])
    # GroupNorm's own scale and bias follow behind: PyTorch gives this one ones and zeros.
    if not ((graph.values(scale) == 1).all() and (graph.values(bias) == 0).all()):
        raise UsageError(f"{node.name} is an InstanceNormalization with weights of its own, which is not supported")
    normed = graph.node("Div", [centred.output[0], deviation.output[0]], node.output[0])
    return [mean, centred, squared, variance, shifted, deviation, normed]


def _part_from_transposes(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The converter turns these to channels-last, and fuses its own Transposes wrongly with those of attention.

    A pair of Reshapes, there and back, stands between them.
    """
    value = node.input[0]
    shape = graph.shape(value)
    if graph.is_input(value) or len(shape) != 4:
        return [node]
    flat = graph.add_constant([shape[0], shape[1], shape[2] * shape[3]], "int64")
    there = graph.node("Reshape", [value, flat])
    back = graph.node("Reshape", [there.output[0], graph.add_constant(shape, "int64")])
    node.input[0] = back.output[0]
    return [there, back, node]


RULES: dict[str, Rule] = {
    "AveragePool": _drop_dilations,
    "Conv": _part_from_transposes,
    "InstanceNormalization": _spell_out_instance_norm,
    "MaxPool": _drop_dilations,
    "Resize": _part_from_transposes,
    "Unsqueeze": _reshape_for_unsqueeze,
}
