"""The command line as a user runs it: files in, files and one-line errors out."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import ascend_parallel


@pytest.fixture
def double_onnx(tmp_path):
    """A model that doubles x of shape (batch, 3)."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([node], "double", ends[:1], ends[1:])
    path = tmp_path / "double.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture
def inputs(tmp_path):
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    np.savez(tmp_path / "in.npz", x=x)
    return x


def command(*words, cwd, **environ):
    return subprocess.run(
        [sys.executable, "-m", "ascend_parallel", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
    )


def test_run_writes_the_outputs_by_name(tmp_path, double_onnx, inputs):
    done = command(
        "run", "double.onnx", "--devices", "cpu:0,1", "--input", "in.npz", "--output", "out.npz", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "on cpu:0, cpu:1" in done.stderr
    assert "y: float32 (5, 3)" in done.stderr
    with np.load(tmp_path / "out.npz") as out:
        assert out.files == ["y"]
        np.testing.assert_array_equal(out["y"], 2 * inputs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["double.onnx", "in.npz", "out.npz"]


def test_run_accepts_every_option(tmp_path, double_onnx, inputs):
    done = command(
        *("run", "double.onnx", "--input", "in.npz", "--output", "out.npz", "--devices", "cpu:0"),
        *("--engine", "onnxruntime", "--engine-option", "threads=1", "--worker-python", sys.executable),
        *("--instances", "2", "--chunk-size", "2", "--batch-axis", "x=0", "--batch-axis", "y=0", "--share-weights"),
        cwd=tmp_path,
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(out["y"], 2 * inputs)
    assert list(tmp_path.glob("cache/ascend-parallel/weights/entries/*/model.onnx"))


def test_an_existing_output_is_unchanged_when_the_run_fails(tmp_path, double_onnx, inputs):
    (tmp_path / "out.npz").write_bytes(b"precious")
    done = command("run", "double.onnx", "--input", "in.npz", "--output", "out.npz", "--devices", "tpu:0", cwd=tmp_path)
    assert done.returncode == 2
    assert (tmp_path / "out.npz").read_bytes() == b"precious"


USAGE = ["--input", "in.npz", "--output", "out.npz", "--devices", "cpu:0"]
ERRORS = {
    "no model": (["run", "nope.onnx", *USAGE], 2, "there is no model file nope.onnx"),
    "no input": (["run", "double.onnx", "--input", "x.npz", "--output", "o.npz"], 2, "--input x.npz: there is no"),
    "not an npz": (["run", "double.onnx", "--input", "double.onnx", "--output", "o.npz"], 2, "not an .npz file"),
    "an array alone": (
        ["run", "double.onnx", "--input", "one.npy", "--output", "o.npz"],
        2,
        "one array without a name",
    ),
    "output folder": (["run", "double.onnx", "--input", "in.npz", "--output", "a/o.npz"], 2, "there is no folder a"),
    "output suffix": (["run", "double.onnx", "--input", "in.npz", "--output", "o.txt"], 2, "does not end in .npz"),
    "batch axis": (["run", "double.onnx", *USAGE, "--batch-axis", "x"], 2, "'x' is not of the form NAME=AXIS"),
    "engine option": (["run", "double.onnx", *USAGE, "--engine-option", "t"], 2, "not of the form NAME=VALUE"),
    "unknown engine option": (["run", "double.onnx", *USAGE, "--engine-option", "t=1"], 2, "has no option 't'"),
    "no sharing": (["run", "m.mindir", *USAGE, "--share-weights"], 2, "mslite cannot share weights between processes"),
    "wrong name": (["run", "double.onnx", "--input", "wrong.npz", "--output", "o.npz"], 2, "'x' missing; 'z' unknown"),
    "engine fails": (["run", "broken.onnx", *USAGE], 3, "cpu:0 failed while building"),
    "engine missing": (["run", "m.mindir", *USAGE], 3, "mindspore_lite cannot be imported"),
    "info of nothing": (["info", "nope.onnx"], 2, "there is no model file nope.onnx"),
    "info of rubbish": (["info", "broken.onnx"], 2, "broken.onnx is not an ONNX file"),
}


@pytest.mark.parametrize(("words", "code", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_are_one_line_with_an_exit_code(tmp_path, double_onnx, inputs, words, code, message):
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08 this is not a model")
    (tmp_path / "m.mindir").write_bytes(b"\n\x05MindSpore")
    np.savez(tmp_path / "wrong.npz", z=inputs)
    np.save(tmp_path / "one.npy", inputs)
    done = command(*words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    own = [line for line in done.stderr.splitlines() if not line.startswith("[cpu:0]")]
    assert len(own) == 1, done.stderr
    assert own[0].startswith("ascend-parallel: error: ")
    assert message in own[0]
    assert not (tmp_path / "out.npz").exists()


def test_errors_use_the_names_of_command_line_options(tmp_path, double_onnx, inputs):
    words = [
        "run",
        "double.onnx",
        "--input",
        "in.npz",
        "--output",
        "out.npz",
        "--worker-python",
        "no_worker/batch_size",
    ]
    done = command(*words, cwd=tmp_path)
    assert "--worker-python='no_worker/batch_size' is not an executable" in done.stderr
    done = command("bench", "double.onnx", "--batch-size", "x", cwd=tmp_path)
    assert "error: --batch-size is 'x'; expected whole numbers" in done.stderr


def test_debug_shows_both_tracebacks(tmp_path, inputs):
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08 this is not a model")
    done = command("--debug", "run", "broken.onnx", *USAGE, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.count("Traceback (most recent call last)") >= 2
    assert "open_session" in done.stderr


def test_info_prints_inputs_and_outputs(tmp_path, double_onnx):
    done = command("info", "double.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ["input", "x", "float32", "(batch,", "3)"] in [line.split() for line in done.stdout.splitlines()]
    as_json = json.loads(command("info", "double.onnx", "--json", cwd=tmp_path).stdout)
    assert as_json["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}]


def test_info_builds_a_model_that_is_not_an_onnx_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def make(device):\n"
        "    class Model:\n"
        "        inputs = [('a', 'int32', (None, 2))]\n"
        "        def predict(self, inputs):\n"
        "            return inputs['a']\n"
        "    return Model()\n"
    )
    done = command("info", "mine:make", "--devices", "cpu:0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "int32" in done.stdout
    assert "The outputs of mine:make are not known before its first call." in done.stdout


def test_version_and_help(tmp_path):
    assert command("--version", cwd=tmp_path).stdout.strip() == f"ascend-parallel {ascend_parallel.__version__}"
    printed = command("--help", cwd=tmp_path).stdout
    for name in ("run", "info", "devices"):
        assert f"\n  {name} " in printed


def test_devices_as_json(tmp_path):
    printed = json.loads(command("devices", "--json", cwd=tmp_path).stdout)
    assert "cpu:0" in [device["device"] for device in printed["devices"]]
    assert printed["default"]
