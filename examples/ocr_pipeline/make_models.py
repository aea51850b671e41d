"""Trains the two models on drawn pages, in seconds, and writes them: models/detect.onnx and models/recognise.onnx.

Both are small networks that look at a window of the picture at every step: a convolution, and a layer on top of it.

    python examples/ocr_pipeline/make_models.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper
from ops import CELL, LINE_ROWS, MARGIN, resize
from pages import SCALES, draw_page, draw_text

FOLDER = Path(__file__).resolve().parent / "models"
#: Side of the detector's window, in pixels, and columns of the recogniser's, which moves by so many.
DETECT_WINDOW, LINE_WINDOW, LINE_STEP = 12, 12, 2
DETECT_HIDDEN, LINE_HIDDEN = 48, 48
BLANK = 10
Layers = list[np.ndarray]


# ---- what is learned from


def detection_windows(rng: np.random.Generator, pages: int, windows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return windows of pages, and whether the cell in the middle of each is part of a text."""
    found, labels = [], []
    for _ in range(pages):
        page, texts = draw_page(rng, int(rng.integers(1, 7)))
        dark = 1 - page.astype(np.float32) / 255
        edge = (DETECT_WINDOW - CELL) // 2
        views = sliding_window_view(np.pad(dark, edge), (DETECT_WINDOW, DETECT_WINDOW))[::CELL, ::CELL]
        is_text = np.zeros(views.shape[:2], np.int64)
        for left, top, right, bottom in (text.box for text in texts):
            is_text[top // CELL : -(-bottom // CELL), left // CELL : -(-right // CELL)] = 1
        has_ink = views.max((2, 3)) > 0.5
        chosen = choose(rng, [is_text == 0, (is_text == 0) & has_ink, is_text == 1], windows // pages)
        found.append(views[chosen].reshape(len(chosen[0]), -1))
        labels.append(is_text[chosen])
    return np.concatenate(found), np.concatenate(labels)


def choose(rng: np.random.Generator, kinds: list[np.ndarray], count: int) -> tuple[np.ndarray, ...]:
    """Return the places of some cells, as many of each kind."""
    places = [np.argwhere(kind) for kind in kinds]
    share = count // len(kinds)
    return tuple(np.concatenate([each[rng.integers(0, len(each), share)] for each in places if len(each)]).T)


def line_windows(rng: np.random.Generator, lines: int) -> tuple[np.ndarray, np.ndarray]:
    """Return windows of lines of text, and the digit in the middle of each, or BLANK."""
    found, labels = [], []
    for _ in range(lines):
        digits = rng.integers(0, 10, rng.integers(1, 9))
        ink = draw_text("".join(map(str, digits)), scale := int(rng.choice(SCALES)))
        columns = np.flatnonzero(ink.any(0))
        tight = ink[:, columns[0] : columns[-1] + 1]
        noisy = rng.uniform(0.7, 1.0) * tight + rng.normal(0.06, 0.04, tight.shape)
        line = resize(noisy.clip(0, 1).astype(np.float32))
        views = sliding_window_view(np.pad(line, ((0, 0), (5, 5))), LINE_WINDOW, axis=1)[:, ::LINE_STEP]
        middles = np.arange(views.shape[1]) * LINE_STEP + 0.5
        label = np.full(len(middles), BLANK)
        for number, digit in enumerate(digits):
            middle = MARGIN + (number * 6 + 2.5 - columns[0] / scale) * LINE_ROWS / 7
            label[np.abs(middles - middle) < 3] = digit
        found.append(views.transpose(1, 0, 2).reshape(len(label), -1))
        labels.append(label)
    return np.concatenate(found), np.concatenate(labels)


# ---- learning


def train(
    rng: np.random.Generator, x: np.ndarray, labels: np.ndarray, hidden: int, classes: int, epochs: int
) -> Layers:
    """Return weights and biases of two layers, with a ReLU between them: softmax regression by Adam."""
    sizes = [(hidden, x.shape[1]), (hidden,), (classes, hidden), (classes,)]
    layers = [rng.normal(0, 1 / np.sqrt(size[-1]), size) if len(size) == 2 else np.zeros(size) for size in sizes]
    means, squares = ([np.zeros(size) for size in sizes] for _ in range(2))
    step = 0
    for epoch in range(epochs):
        for batch in np.array_split(rng.permutation(len(x)), len(x) // 256):
            step += 1
            gradients = find_gradients(layers, x[batch], labels[batch])
            rate = 0.004 * (1 - epoch / epochs) * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            for layer, mean, square, gradient in zip(layers, means, squares, gradients, strict=True):
                mean += 0.1 * (gradient - mean)
                square += 0.001 * (gradient**2 - square)
                layer -= rate * mean / (np.sqrt(square) + 1e-8)
    return [layer.astype(np.float32) for layer in layers]


def find_gradients(layers: Layers, x: np.ndarray, labels: np.ndarray) -> Layers:
    """Return the gradients of the cross entropy."""
    first, first_bias, second, second_bias = layers
    raw = x @ first.T + first_bias
    hidden = np.maximum(raw, 0)
    scores = hidden @ second.T + second_bias
    chances = np.exp(scores - scores.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    chances[np.arange(len(labels)), labels] -= 1
    chances /= len(labels)
    back = (chances @ second) * (raw > 0)
    return [back.T @ x, back.sum(0), chances.T @ hidden, chances.sum(0)]


# ---- the models


def write_detector(path: Path, layers: Layers) -> None:
    """Write page (batch, 1, rows, columns) -> text (batch, 1, rows / 4, columns / 4): from 0 to 1."""
    first, first_bias, second, second_bias = layers
    edge = (DETECT_WINDOW - CELL) // 2
    window = {"kernel_shape": [DETECT_WINDOW] * 2, "strides": [CELL] * 2, "pads": [edge] * 4}
    nodes = [
        helper.make_node("Conv", ["page", "w1", "b1"], ["seen"], **window),
        helper.make_node("Relu", ["seen"], ["hidden"]),
        helper.make_node("Conv", ["hidden", "w2", "b2"], ["score"], kernel_shape=[1, 1]),
        helper.make_node("Sigmoid", ["score"], ["text"]),
    ]
    weights = {
        "w1": first.reshape(-1, 1, DETECT_WINDOW, DETECT_WINDOW),
        "b1": first_bias,
        "w2": (second[1] - second[0]).reshape(1, -1, 1, 1),  # of two classes, only the difference counts
        "b2": second_bias[1:] - second_bias[:1],
    }
    write(
        path, nodes, weights, ["batch", 1, "rows", "columns"], ["batch", 1, "cell_rows", "cell_columns"], "page", "text"
    )


def write_recogniser(path: Path, layers: Layers) -> None:
    """Write lines (batch, 1, 14, columns) -> digits (batch, 11, columns / 2): scores of 10 digits, and of none."""
    first, first_bias, second, second_bias = layers
    window = {"kernel_shape": [LINE_ROWS, LINE_WINDOW], "strides": [1, LINE_STEP], "pads": [0, 5, 0, 5]}
    nodes = [
        helper.make_node("Conv", ["lines", "w1", "b1"], ["seen"], **window),
        helper.make_node("Relu", ["seen"], ["hidden"]),
        helper.make_node("Conv", ["hidden", "w2", "b2"], ["scores"], kernel_shape=[1, 1]),
        helper.make_node("Squeeze", ["scores", "axis"], ["digits"]),
    ]
    weights = {
        "w1": first.reshape(-1, 1, LINE_ROWS, LINE_WINDOW),
        "b1": first_bias,
        "w2": second.reshape(*second.shape, 1, 1),
        "b2": second_bias,
        "axis": np.array([2], np.int64),
    }
    write(path, nodes, weights, ["batch", 1, LINE_ROWS, "columns"], ["batch", BLANK + 1, "steps"], "lines", "digits")


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    shape_in: list[str | int],
    shape_out: list[str | int],
    name_in: str,
    name_out: str,
) -> None:
    """Write a model of one input and one output."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(name_in, TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info(name_out, TensorProto.FLOAT, shape_out)],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def main(folder: Path) -> None:
    """Train and write both."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    write_detector(folder / "detect.onnx", train(rng, *detection_windows(rng, 150, 45_000), DETECT_HIDDEN, 2, 20))
    write_recogniser(folder / "recognise.onnx", train(rng, *line_windows(rng, 700), LINE_HIDDEN, BLANK + 1, 12))
    print(f"wrote {folder / 'detect.onnx'} and {folder / 'recognise.onnx'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
