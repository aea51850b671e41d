"""Rewrites an ONNX graph for MindSpore Lite 2.0.0's CPU kernels, without changing what it computes.

The converter or the CPU kernels refuse some operators and compute others wrongly. Each rule below replaces such an
operator by supported ones. The rules were found by experiment, and ONNX Runtime computes the same numbers before and
after. A model that needs no rewriting is not changed.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ascend_parallel.errors import ConversionError, UsageError

INSTALL = "pip install 'ascend-parallel[convert]'"
#: Operators that depend on shapes only, and are folded once the shapes are fixed: Shape ... Reshape chains, CLIP's
#: mask.
FOLDED = frozenset({"ConstantOfShape", "Expand", "Range", "Shape", "Size", "Trilu", "Where"})
#: The maximum size of a protobuf message, which limits onnxsim's input and the rewritten model.
MAX_BYTES = 2**31 - 1


class Rewrite(NamedTuple):
    """A rewritten model. ``changes`` maps operators to the number of replaced nodes; it is empty if nothing changed."""

    model: onnx.ModelProto
    changes: dict[str, int]


def needs_rewrite(operators: frozenset[str]) -> bool:
    """Whether a model with these operators may have to be rewritten."""
    return not operators.isdisjoint(FOLDED | set(RULES))


def rewrite_for_cpu(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> Rewrite:
    """Return a model with fixed shapes that MindSpore Lite converts and runs correctly on the CPU.

    Args:
        model: an ONNX model of opset 17 or less, with loaded weights; it is modified.
        shapes: input name -> shape, without open axes.

    Raises:
        UsageError: if an operator would be computed wrongly, or onnxsim is needed but not installed.
        ConversionError: if onnxsim failed.
    """
    operators = frozenset(node.op_type for node in model.graph.node)
    check_operators(operators)
    check_simplifier(operators)
    fix_shapes(model, shapes)
    before = Counter(node.op_type for node in model.graph.node)
    changes: dict[str, int] = {}
    if not FOLDED.isdisjoint(before):
        model = _simplify(model)
        removed = before - Counter(node.op_type for node in model.graph.node)
        changes["folded constants"] = sum(removed.values())
    graph = _Graph(model)
    graph.rewrite(RULES)
    changes.update(sorted(graph.changes.items()))
    if changes:
        onnx.checker.check_model(graph.model)
    return Rewrite(graph.model, changes)


def fix_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Set the shapes of the inputs, and clear those of the outputs, which depend on them."""
    for value in model.graph.input:
        if value.name in shapes:
            _set_shape(value, shapes[value.name])
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    del model.graph.value_info[:]  # was inferred for other shapes


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    del value.type.tensor_type.shape.dim[:]
    for size in shape:
        value.type.tensor_type.shape.dim.add().dim_value = size


def check_operators(operators: frozenset[str]) -> None:
    """Refuse operators that MindSpore Lite accepts but computes wrongly on the CPU; raises UsageError."""
    if "LayerNormalization" in operators:
        raise UsageError(
            "the ONNX model has LayerNormalization nodes, whose epsilon MindSpore Lite ignores on the CPU; export it "
            "with opset 16 or less"
        )


def check_size(path: Path, size_bytes: int, operators: frozenset[str]) -> None:
    """Refuse a model that is too large to be rewritten; raises UsageError."""
    if size_bytes > MAX_BYTES and needs_rewrite(operators):
        raise UsageError(
            f"{path} has {size_bytes / 2**30:.1f} GiB with its weights, and must be below 2 GiB to be rewritten "
            "for MindSpore Lite's CPU kernels; on CPUs run the ONNX file itself (--engine onnxruntime), or convert it "
            "for Ascend, which needs no rewriting"
        )


def check_simplifier(operators: frozenset[str]) -> None:
    """Check that onnxsim is installed if it is needed; raises UsageError."""
    if not operators.isdisjoint(FOLDED) and importlib.util.find_spec("onnxsim") is None:
        raise UsageError(
            "onnxsim is needed to fold constants that depend on the shapes of this ONNX model, for MindSpore Lite on "
            f"the CPU: {INSTALL}"
        )


def _simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants with onnxsim, now that the shapes are fixed."""
    import onnxsim

    simplified: onnx.ModelProto
    try:
        simplified, is_same = onnxsim.simplify(model)
    except Exception as error:  # onnxsim and protobuf raise many types
        raise ConversionError(f"onnxsim could not simplify the ONNX model: {error}") from error
    if not is_same:
        raise ConversionError(
            "onnxsim changed what the ONNX model computes; convert it with MindSpore Lite's converter_lite"
        )
    return simplified


class _Graph:
    """A model whose nodes are replaced by rules; ``changes`` counts the replaced nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.changes: Counter[str] = Counter()
        self._graph = model.graph
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self._shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
        }
        self._shapes.update((tensor.name, list(tensor.dims)) for tensor in self._graph.initializer)
        self._inputs = {value.name for value in self._graph.input}
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._constants.update((node.output[0], node.attribute[0].t) for node in _constant_nodes(self._graph))
        self.has_transposes = any(node.op_type == "Transpose" for node in self._graph.node)
        self._count = 0

    def rewrite(self, rules: Mapping[str, Sequence[Rule]]) -> None:
        """Replace each node by the result of its operator's rules."""
        nodes: list[onnx.NodeProto] = []
        for node in list(self._graph.node):
            before = node.SerializeToString()
            replacement = [node]
            for rule in rules.get(node.op_type, ()):
                replacement = [*replacement[:-1], *rule(self, replacement[-1])]
            if len(replacement) > 1 or replacement[0].SerializeToString() != before:
                self.changes[node.op_type] += 1
            nodes += replacement
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def shape(self, name: str) -> list[int]:
        """Return the shape of a value; [] if it is not completely known."""
        shape = self._shapes.get(name, [])
        return shape if all(size > 0 for size in shape) else []

    def is_input(self, name: str) -> bool:
        """Whether a value is an input of the model."""
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
        """Return an unused name."""
        self._count += 1
        return f"cpu_rewrite_{self._count}"

    def node(self, op_type: str, inputs: list[str], output: str = "", **attributes: Any) -> onnx.NodeProto:
        """Return a node with a new name; its output gets a new name too, unless ``output`` is given."""
        return helper.make_node(op_type, inputs, [output or self.new_name()], self.new_name(), **attributes)


def _constant_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the Constant nodes that hold a tensor; those with "value_ints" and the like are never weights."""
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            yield node


#: Returns the replacement of a node. Its last node has the original output, and is the input of the operator's next
#: rule.
Rule = Callable[[_Graph, onnx.NodeProto], list[onnx.NodeProto]]


def _drop_dilations(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Remove dilations of one: they have no effect, but the converter says "pooling op not support dilations now"."""
    for attribute in list(node.attribute):
        if attribute.name == "dilations" and all(size == 1 for size in attribute.ints):
            node.attribute.remove(attribute)
    return [node]


def _set_window_attributes(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Set attributes that have defaults: without them the converter says "kernel_size/stride/dilation is nullptr"."""
    kernel = graph.shape(node.input[1])[2:]
    present = {attribute.name for attribute in node.attribute}
    ones = [1] * len(kernel)
    for name, sizes in (("kernel_shape", kernel), ("strides", ones), ("dilations", ones)):
        if kernel and name not in present:
            node.attribute.append(helper.make_attribute(name, sizes))
    return [node]


def _reshape_for_unsqueeze(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Replace an Unsqueeze by a Reshape: with two axes the converter says "parse node Unsqueeze failed"."""
    shape = graph.shape(node.output[0])
    if not shape:
        return [node]
    return [graph.node("Reshape", [node.input[0], graph.add_constant(shape, "int64")], node.output[0])]


def _expand_instance_norm(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Expand PyTorch's GroupNorm, exported with three axes: the kernel says "Unsupported tensor shape: 3"."""
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
    # The scale and bias of GroupNorm are separate nodes: PyTorch sets those of this node to ones and zeros.
    if not ((graph.values(scale) == 1).all() and (graph.values(bias) == 0).all()):
        raise UsageError(f"{node.name} is an InstanceNormalization with its own weights, which is not supported")
    normed = graph.node("Div", [centred.output[0], deviation.output[0]], node.output[0])
    return [mean, centred, squared, variance, shifted, deviation, normed]


def _separate_from_transposes(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Insert two Reshapes, to another shape and back, before nodes that the converter changes to channels-last.

    Otherwise the converter fuses its own Transposes wrongly with those of attention.
    """
    value = node.input[0]
    shape = graph.shape(value)
    if not graph.has_transposes or graph.is_input(value) or len(shape) != 4:
        return [node]
    flat = graph.add_constant([shape[0], shape[1], shape[2] * shape[3]], "int64")
    flattened = graph.node("Reshape", [value, flat])
    restored = graph.node("Reshape", [flattened.output[0], graph.add_constant(shape, "int64")])
    node.input[0] = restored.output[0]
    return [flattened, restored, node]


RULES: dict[str, Sequence[Rule]] = {
    "AveragePool": (_drop_dilations,),
    "Conv": (_set_window_attributes, _separate_from_transposes),
    "ConvTranspose": (_set_window_attributes,),
    "InstanceNormalization": (_expand_instance_norm,),
    "MaxPool": (_drop_dilations,),
    "Resize": (_separate_from_transposes,),
    "Unsqueeze": (_reshape_for_unsqueeze,),
}
