"""examples/cluster: what can run here runs; the rest is checked as far as it can be."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import PIL.Image
import pytest
from onnx import TensorProto, helper

pytestmark = pytest.mark.timeout(120)
FOLDER = Path(__file__).resolve().parents[2] / "examples" / "cluster"


def run(name, *words):
    return subprocess.run(
        [sys.executable, str(FOLDER / name), *map(str, words)], capture_output=True, text=True, timeout=110
    )


def test_the_walk_through(cluster):
    words = ["sim", "--engine", "simulated", "--devices", "simulated:*", "--address", cluster.address]
    done = run("predict.py", *words, "--rows", "12", "--calls", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 devices: ")
    assert "3 calls of 12 rows" in done.stdout and "output: float32 (12, 16)" in done.stdout
    assert done.stdout.count(" rows, busy for ") == 6


def test_pictures_with_ray_data(cluster, tmp_path):
    image, brightness = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["batch", 32, 32, 3]), ("brightness", ["batch", 1]))
    )
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["brightness"], axes=[1], keepdims=1),
    ]
    graph = helper.make_graph(nodes, "brightness", [image], [brightness])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "model.onnx"
    )
    (tmp_path / "pictures").mkdir()
    for value in (0, 51, 255):
        PIL.Image.new("RGB", (40, 30), (value,) * 3).save(tmp_path / f"pictures/{value:03d}.png")
    done = run("ray_data.py", tmp_path / "model.onnx", tmp_path / "pictures", "--address", cluster.address)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "brightness=" in line]
    found = {Path(line.split()[0]).stem: float(line.split("[")[1].rstrip(" ].")) for line in lines}
    assert found == pytest.approx({"000": 0.0, "051": 0.2, "255": 1.0}, abs=1e-5)
    assert np.isfinite(list(found.values())).all()


def test_the_slurm_script_is_sound():
    done = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), FOLDER / "ray.slurm"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
