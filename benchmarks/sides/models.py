"""The models of peers.py: ONNX files with random weights, and one batch for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import ascend_parallel

from .job import EXPECTED, WORKERS, Feeds
from .session import open_session

ROOT = Path(__file__).resolve().parents[2]
SD21 = ROOT / "examples" / "sd21"
OPSET, IR_VERSION = 13, 8  # supported by MindSpore Lite 2.0.0
#: ONNX Runtime's own results vary by this much with the number of threads, relative to the largest value.
TOLERANCE = 1e-4
#: MindSpore Lite sums up in another order.
MINDIR_TOLERANCE = 1e-3


class Model(NamedTuple):
    """A model.

    Attributes:
        title: the title in tables.
        write: writes its ONNX file.
        feeds: returns the inputs of a call for all workers.
        mindir_of: for a MINDIR model: the ONNX model that it is converted from, whose column it shares in tables.
    """

    title: str
    write: Callable[[Path], Path]
    feeds: Callable[[], Feeds]
    mindir_of: str = ""


class Graph:
    """A builder of ONNX graphs; each method adds a node and returns the name of its output."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add any node with one output."""
        output = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def weight(self, *shape: int, fan_in: int) -> str:
        """Add random weights that preserve the variance of activations (He et al. 2015)."""
        name = f"w{len(self._weights)}"
        values = self._random.standard_normal(shape) * np.sqrt(2 / fan_in)
        self._weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, x: str, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> str:
        """Add a convolution with bias; the size changes by the stride only."""
        fan_in = in_channels * kernel * kernel
        weights = (
            self.weight(out_channels, in_channels, kernel, kernel, fan_in=fan_in),
            self.weight(out_channels, fan_in=fan_in),
        )
        pads = [kernel // 2] * 4
        return self.add("Conv", x, *weights, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def linear(self, x: str, in_features: int, out_features: int) -> str:
        """Add a matrix product with bias."""
        return self.add(
            "Gemm",
            x,
            self.weight(in_features, out_features, fan_in=in_features),
            self.weight(out_features, fan_in=in_features),
        )

    def save(self, path: Path, input_shape: Sequence[int], output: str, output_shape: Sequence[int]) -> Path:
        """Write the file; ``input_shape`` and ``output_shape`` are the shapes of a row."""
        y = helper.make_node("Identity", [output], ["y"])
        shapes = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
            for name, shape in (("x", input_shape), ("y", output_shape))
        ]
        graph = helper.make_graph([*self._nodes, y], path.stem, shapes[:1], shapes[1:], self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def write_cnn(path: Path, size: int = 224) -> Path:
    """Write a ResNet of 13 convolutions, x (batch, 3, size, size) -> y (batch, 1000): 0.4 G multiply-adds per row."""
    graph = Graph()
    x = graph.add("Relu", graph.conv("x", 3, 32, kernel=7, stride=2))
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 32
    for out_channels, stride in ((32, 1), (64, 2), (128, 2)):
        for block_stride in (stride, 1):
            shortcut = (
                x
                if block_stride == 1 and width == out_channels
                else graph.conv(x, width, out_channels, 1, block_stride)
            )
            y = graph.add("Relu", graph.conv(x, width, out_channels, 3, block_stride))
            x = graph.add("Relu", graph.add("Add", graph.conv(y, out_channels, out_channels, 3), shortcut))
            width = out_channels
    x = graph.add("Flatten", graph.add("GlobalAveragePool", x), axis=1)
    return graph.save(path, [3, size, size], graph.linear(x, width, 1000), [1000])


def write_mlp(path: Path, features: int = 256) -> Path:
    """Write three layers, x (batch, features) -> y (batch, features): 1.6 M multiply-adds per row of 256."""
    graph = Graph()
    x = graph.add("Relu", graph.linear("x", features, 1024))
    x = graph.add("Relu", graph.linear(x, 1024, 1024))
    return graph.save(path, [features], graph.linear(x, 1024, features), [features])


def write_identity(path: Path) -> Path:
    """Write the identity, x (batch, n) -> y (batch, n)."""
    return Graph().save(path, ["n"], "x", ["n"])


def write_unet(path: Path) -> Path:
    """Write the UNet of the tiny Stable Diffusion in the repository, with one time step for all rows."""
    model = onnx.load(SD21 / "tiny" / "unet" / "model.onnx")
    (timestep,) = (one for one in model.graph.input if one.name == "timestep")
    timestep.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    return path


def unet_feeds() -> Feeds:
    """Return the inputs of a step of one picture with classifier-free guidance: two rows, one per worker."""
    random = np.random.default_rng(1)
    return {
        "sample": random.standard_normal((2, 4, 8, 8)).astype(np.float32),
        "timestep": np.array([500], np.int64),
        "encoder_hidden_states": random.standard_normal((2, 77, 48)).astype(np.float32),
    }


def normal(*shape: int) -> Callable[[], Feeds]:
    """Return a function that returns one random input, x."""
    return lambda: {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


MODELS = {
    "unet": Model("tiny SD UNet", write_unet, unet_feeds),
    "cnn": Model("CNN", write_cnn, normal(4, 3, 224, 224)),
    "mlp": Model("MLP", write_mlp, normal(64, 256)),
    "identity-1m": Model("identity, 1 MiB", write_identity, normal(8, 1 << 15)),
    "identity-16m": Model("identity, 16 MiB", write_identity, normal(8, 1 << 19)),
    "unet-mindir": Model("tiny SD UNet, MINDIR", write_unet, unet_feeds, mindir_of="unet"),
    "cnn-mindir": Model("CNN, MINDIR", write_cnn, normal(4, 3, 224, 224), mindir_of="cnn"),
    "mlp-mindir": Model("MLP, MINDIR", write_mlp, normal(64, 256), mindir_of="mlp"),
}


def write_job(name: str, folder: Path, mslite_python: str) -> Path:
    """Write a model and its batch to a folder; return the file that :class:`sides.job.Job` reads."""
    model = MODELS[name]
    file = model.write(folder / f"{name}.onnx")
    feeds = model.feeds()
    session = open_session(str(file), 1)
    sliced = [node.name for node in session.get_inputs() if not isinstance(node.shape[0], int)]
    expected = session.run(None, feeds)[0]
    rows = len(feeds[sliced[0]]) // WORKERS
    if model.mindir_of:
        shapes = {key: [rows, *a.shape[1:]] if key in sliced else list(a.shape) for key, a in feeds.items()}
        file = convert(file, folder / f"{name}.mindir", shapes, mslite_python)
    np.savez(folder / f"{name}.npz", **{EXPECTED: expected}, **feeds)
    settings = {
        "model": str(file),
        "arrays": str(folder / f"{name}.npz"),
        "inputs": list(feeds),
        "sliced": sliced,
        "rows": rows,
        "tolerance": (MINDIR_TOLERANCE if model.mindir_of else TOLERANCE) * float(np.abs(expected).max()),
        "worker_python": mslite_python if model.mindir_of else "",
    }
    job = folder / f"{name}.json"
    job.write_text(json.dumps(settings))
    return job


def convert(source: Path, file: Path, shapes: dict[str, list[int]], python: str) -> Path:
    """Convert a model with MindSpore Lite's own converter."""
    input_shape = ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items())
    ascend_parallel.convert(
        source, devices="cpu:0", output=file, input_shape=input_shape, worker_python=python, show=lambda line: None
    )
    return file
