"""Run a small ONNX model on two devices with the installed ascend_parallel; called by smoke.sh."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from ascend_parallel import ParallelPredictUtils


def write_model(path: Path) -> None:
    """Write a model that doubles its input of shape (batch, 3)."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([node], "double", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def main() -> None:
    """Check the result, and print a message."""
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "double.onnx")
        write_model(model)
        with ParallelPredictUtils(model, devices="cpu:0,1") as runner:
            y = runner.predict({"x": x})["y"]
    np.testing.assert_array_equal(y, 2 * x)
    print(f"smoke: Python {sys.version.split()[0]} with numpy {np.__version__} works")


if __name__ == "__main__":
    main()
