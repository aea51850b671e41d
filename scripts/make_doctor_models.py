"""Make the files of ascend_parallel/doctor/models: a tiny model as ONNX and MINDIR, and what it computes.

    python scripts/make_doctor_models.py --mslite-python PYTHON3.7

The MINDIR file is made by the real MindSpore Lite 2.0.0, which has wheels for Python 3.7 only.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ascend_parallel import convert

FOLDER = Path(__file__).resolve().parents[1] / "ascend_parallel" / "doctor" / "models"
ROWS = 8
OPSET, IR_VERSION = 13, 8


def make_model() -> onnx.ModelProto:
    """Return x (1, 3, 8, 8) -> Conv, Relu, GlobalAveragePool, Flatten, Gemm, Softmax -> y (1, 4), all float32."""
    random = np.random.default_rng(0)
    weights = {
        "kernel": random.standard_normal((8, 3, 3, 3)) * 0.3,
        "kernel_bias": random.standard_normal(8) * 0.1,
        "matrix": random.standard_normal((8, 4)) * 0.7,
        "bias": random.standard_normal(4) * 0.1,
    }
    nodes = [
        helper.make_node(
            "Conv", ["x", "kernel", "kernel_bias"], ["a"], kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1]
        ),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"], axis=1),
        helper.make_node("Gemm", ["d", "matrix", "bias"], ["e"]),
        helper.make_node("Softmax", ["e"], ["y"], axis=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mslite-python", required=True)
    python = parser.parse_args().mslite_python
    model = make_model()
    onnx.checker.check_model(model)
    onnx.save(model, FOLDER / "tiny.onnx")
    random = np.random.default_rng(1)
    offsets = 2 * random.standard_normal((ROWS, 3, 1, 1))  # so that each row has an answer of its own
    x = (random.standard_normal((ROWS, 3, 8, 8)) + offsets).astype(np.float32)
    reference = ReferenceEvaluator(model)
    y = np.concatenate([reference.run(None, {"x": row[np.newaxis]})[0] for row in x])
    np.savez_compressed(FOLDER / "tiny.npz", x=x, y=y)
    with tempfile.TemporaryDirectory() as folder:
        [mindir] = convert(FOLDER / "tiny.onnx", devices="cpu:0", output=folder, target="cpu", worker_python=python)
        (FOLDER / "tiny.mindir").write_bytes(mindir.read_bytes())


if __name__ == "__main__":
    main()
