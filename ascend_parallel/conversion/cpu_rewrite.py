"""Rewrites an ONNX graph for MindSpore Lite 2.0.0's CPU kernels, without changing what it computes.

Each rule below replaces an operator, which the converter or the CPU kernels refuse or compute wrongly, by others that
they take. Found by running the real thing; ONNX Runtime gives the same numbers before and after. A model that needs
nothing is left as it is.
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
#: What follows from shapes alone and is folded away once they are fixed: chains of Shape ... Reshape, CLIP's mask.
FOLDED = frozenset({"ConstantOfShape", "Expand", "Range", "Shape", "Size", "Trilu", "Where"})
#: Of one protobuf message, which onnxsim's work and the rewritten model have to be.
MAX_BYTES = 2**31 - 1


class Rewrite(NamedTuple):
    """A rewritten model. ``changes`` says what was replaced, operator -> count; it is empty where nothing was."""

    model: onnx.ModelProto
    changes: dict[str, int]


def needs_work(operators: frozenset[str]) -> bool:
    """Whether a model of these operators may have to be rewritten."""
    return not operators.isdisjoint(FOLDED | set(RULES))


def rewrite_for_cpu(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> Rewrite:
    """Return a model of fixed shapes that MindSpore Lite converts and runs on the CPU.

    Args:
        model: an ONNX model of opset 17 or less, its weights loaded; it is changed.
        shapes: input name -> shape, with nothing open.

    Raises:
        UsageError: it has an operator that would be computed wrongly, or onnxsim is needed and not installed.
        ConversionError: onnxsim failed.
    """
    operators = frozenset(node.op_type for node in model.graph.node)
    check_operators(operators)
    check_simplifier(operators)
    fix_shapes(model, shapes)
    before = Counter(node.op_type for node in model.graph.node)
    changes: dict[str, int] = {}
    if not FOLDED.isdisjoint(before):
        model = _simplify(model)
        gone = before - Counter(node.op_type for node in model.graph.node)
        changes["folded constants"] = sum(gone.values())
    graph = _Graph(model)
    graph.rewrite(RULES)
    changes.update(sorted(graph.changes.items()))
    if changes:
        onnx.checker.check_model(graph.model)
    return Rewrite(graph.model, changes)


def fix_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the inputs these shapes, and forget those of the outputs, which follow from them."""
    for value in model.graph.input:
        if value.name in shapes:
            _set_shape(value, shapes[value.name])
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    del model.graph.value_info[:]  # inferred for other shapes


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    del value.type.tensor_type.shape.dim[:]
    for size in shape:
        value.type.tensor_type.shape.dim.add().dim_value = size


def check_operators(operators: frozenset[str]) -> None:
    """Refuse operators that MindSpore Lite takes and computes wrongly on the CPU."""
    if "LayerNormalization" in operators:
        raise UsageError(
            "the ONNX model has LayerNormalization nodes, whose epsilon MindSpore Lite ignores on the CPU; export it "
            "with opset 16 or less"
        )


def check_size(path: Path, size_bytes: int, operators: frozenset[str]) -> None:
    """Refuse to rewrite what is too large for it."""
    if size_bytes > MAX_BYTES and needs_work(operators):
        raise UsageError(
            f"{path} has {size_bytes / 2**30:.1f} GiB with its weights, and has to be below 2 GiB to be rewritten "
            "for MindSpore Lite's CPU kernels; on CPUs run the ONNX file itself (--engine onnxruntime), or convert it "
            "for Ascend, where nothing is rewritten"
        )


def check_simplifier(operators: frozenset[str]) -> None:
    """Check that onnxsim is installed where it will be needed; raises UsageError."""
    if not operators.isdisjoint(FOLDED) and importlib.util.find_spec("onnxsim") is None:
        raise UsageError(
            "onnxsim is needed to fold what follows from the shapes of this ONNX model, for MindSpore Lite on the CPU: "
            f"{INSTALL}"
        )


def _simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold what is constant now that shapes are; onnxsim does it."""
    import onnxsim

    simplified: onnx.ModelProto
    try:
        simplified, is_same = onnxsim.simplify(model)
    except Exception as error:  # its own and protobuf's, of many kinds
        raise ConversionError(f"onnxsim could not simplify the ONNX model: {error}") from error
    if not is_same:
        raise ConversionError(
            "onnxsim changed what the ONNX model computes; convert it with MindSpore Lite's converter_lite"
        )
    return simplified


class _Graph:
    """A model whose nodes are replaced, one rule an operator; ``changes`` counts them."""

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
        """Replace each node by what its operator's rules make of it."""
        nodes: list[onnx.NodeProto] = []
        for node in list(self._graph.node):
            before = node.SerializeToString()
            made = [node]
            for rule in rules.get(node.op_type, ()):
                made = [*made[:-1], *rule(self, made[-1])]
            if len(made) > 1 or made[0].SerializeToString() != before:
                self.changes[node.op_type] += 1
            nodes += made
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def shape(self, name: str) -> list[int]:
        """Return the shape of a value; [] where it is not wholly known."""
        shape = self._shapes.get(name, [])
        return shape if all(size > 0 for size in shape) else []

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
        return f"cpu_rewrite_{self._count}"

    def node(self, op_type: str, inputs: list[str], output: str = "", **attributes: Any) -> onnx.NodeProto:
        """Return a node with a name of its own; its only output has one too, unless told."""
        return helper.make_node(op_type, inputs, [output or self.new_name()], self.new_name(), **attributes)


def _constant_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes that hold a tensor; those of "value_ints" and the like are never weights."""
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            yield node


#: Returns what stands for a node; the last of them gives its output, and goes through the operator's next rule.
Rule = Callable[[_Graph, onnx.NodeProto], list[onnx.NodeProto]]


def _drop_dilations(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Dilations of one do nothing, but the converter says "pooling op not support dilations now"."""
    for attribute in list(node.attribute):
        if attribute.name == "dilations" and all(size == 1 for size in attribute.ints):
            node.attribute.remove(attribute)
    return [node]


def _spell_out_window(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """What follows from the weights, or is one by default, must be said: "kernel_size/stride/dilation is nullptr"."""
    kernel = graph.shape(node.input[1])[2:]
    there = {attribute.name for attribute in node.attribute}
    ones = [1] * len(kernel)
    for name, sizes in (("kernel_shape", kernel), ("strides", ones), ("dilations", ones)):
        if kernel and name not in there:
            node.attribute.append(helper.make_attribute(name, sizes))
    return [node]


def _reshape_for_unsqueeze(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Two axes at once are "parse node Unsqueeze failed"; with fixed shapes it is a Reshape."""
    shape = graph.shape(node.output[0])
    if not shape:
        return [node]
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
    if not graph.has_transposes or graph.is_input(value) or len(shape) != 4:
        return [node]
    flat = graph.add_constant([shape[0], shape[1], shape[2] * shape[3]], "int64")
    there = graph.node("Reshape", [value, flat])
    back = graph.node("Reshape", [there.output[0], graph.add_constant(shape, "int64")])
    node.input[0] = back.output[0]
    return [there, back, node]


RULES: dict[str, Sequence[Rule]] = {
    "AveragePool": (_drop_dilations,),
    "Conv": (_spell_out_window, _part_from_transposes),
    "ConvTranspose": (_spell_out_window,),
    "InstanceNormalization": (_spell_out_instance_norm,),
    "MaxPool": (_drop_dilations,),
    "Resize": (_part_from_transposes,),
    "Unsqueeze": (_reshape_for_unsqueeze,),
}
