"""Makes the models of the examples, small ones with weights of a fixed seed: ``python make_models.py``.

Each lies in the folder in which Paddle Serving would have its own, as the file ``model.onnx``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
FEATURES = 13
WORDS, WIDTH = 64, 8


def main() -> None:
    """Write all models."""
    write("uci_housing/uci_housing_model", make_linear())
    write("imdb_model_ensemble/imdb_bow_model", make_classifier(seed=1))
    write("imdb_model_ensemble/imdb_cnn_model", make_classifier(seed=2))
    write("auto_batching/mlp_model", make_mlp())


def write(folder: str, model: onnx.ModelProto) -> None:
    """Write a model."""
    path = HERE / folder / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def make_linear() -> onnx.ModelProto:
    """Return the regression of prices: x (n, 13) -> price (n, 1)."""
    weights = {"w": random(0, (FEATURES, 1)), "b": np.array([22.5], np.float32)}
    return make(
        "linear", [helper.make_node("Gemm", ["x", "w", "b"], ["price"])], ("x", FEATURES), ("price", 1), weights
    )


def make_classifier(seed: int) -> onnx.ModelProto:
    """Return a classifier of sentences by how often each word is in them: words (n, 64) -> prediction (n, 2)."""
    weights = {"w1": random(seed, (WORDS, WIDTH)), "w2": random(seed + 10, (WIDTH, 2))}
    nodes = [
        helper.make_node("MatMul", ["words", "w1"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["prediction"], axis=1),
    ]
    return make("classifier", nodes, ("words", WORDS), ("prediction", 2), weights)


def make_mlp() -> onnx.ModelProto:
    """Return a model for which batches pay: x (n, 64) -> y (n, 16), by layers of 1024."""
    sizes = (64, 1024, 1024, 16)
    weights = {f"w{n}": random(n, sizes[n : n + 2]) / 32 for n in range(3)}
    nodes = []
    for n in range(3):
        nodes.append(helper.make_node("MatMul", ["x" if n == 0 else f"t{n}", f"w{n}"], ["y" if n == 2 else f"h{n}"]))
        if n < 2:
            nodes.append(helper.make_node("Tanh", [f"h{n}"], [f"t{n + 1}"]))
    return make("mlp", nodes, ("x", 64), ("y", 16), weights)


def random(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return weights that a seed makes."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def make(name: str, nodes: list, given: tuple, answer: tuple, weights: dict) -> onnx.ModelProto:
    """Return a model with one input and one output of rows."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(given[0], TensorProto.FLOAT, ["n", given[1]])],
        [helper.make_tensor_value_info(answer[0], TensorProto.FLOAT, ["n", answer[1]])],
        [numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8  # for runtimes of years ago
    return model


if __name__ == "__main__":
    main()
