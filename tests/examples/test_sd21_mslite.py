"""ONNX files made into MINDIR files on the spot: the same numbers, nothing twice or half; then the same pictures."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import convert_for_cpu
import numpy as np
import onnx
import onnxruntime
import pytest
from convert_for_cpu import convert_folder, find_version, read_inputs
from digestible import make_digestible
from faults import procs
from model_folder import MODELS, TINY, find_models
from models import mslite_python
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from standins import make_folder

from ascend_parallel import AscendParallelError, DiskError, UsageError

MAIN = Path(convert_for_cpu.__file__).with_name("main.py")
#: Levels of 0..255 between ONNX Runtime's pictures and MindSpore Lite's. Measured over 240 pictures: 2.
LEVELS = 3
#: The largest difference that a rewritten graph may make in ONNX Runtime: the last bits, of numbers of about 1.
ROUNDING = 2e-5
TOKENS = 77


def fixed_shapes(model, rows):
    """Return the inputs' shapes with so many rows."""
    return {spec.name: [dim if isinstance(dim, int) else rows for dim in spec.shape] for spec in read_inputs(model)}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_a_digestible_model_computes_the_same(name, rows):
    file = TINY / name / "model.onnx"
    model = onnx.load(file)
    shapes = fixed_shapes(model, rows)
    rng = np.random.default_rng(rows)
    feeds = {
        spec.name: rng.integers(0, 500, shapes[spec.name])
        if spec.dtype == "int64"
        else rng.standard_normal(shapes[spec.name], np.float32)
        for spec in read_inputs(model)
    }
    before = onnxruntime.InferenceSession(file).run(None, feeds)
    after = onnxruntime.InferenceSession(make_digestible(model, shapes).SerializeToString()).run(None, feeds)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old, rtol=ROUNDING, atol=ROUNDING)


def one_node(op_type, *, constants=(), opset=13, shape=(1, 4, 6), **attributes):
    inputs = ["x", *dict(constants)]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape[1:]])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *shape[1:]])
    weights = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in dict(constants).items()]
    graph = helper.make_graph(
        [helper.make_node(op_type, inputs, ["y"], **attributes)], "one", [value], [result], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("shape", [(1, 4, 6), (1, 4, 6, 6)])
def test_a_group_norm_is_spelt_out_where_the_kernel_lacks_it(shape):
    constants = {"scale": np.ones(4), "bias": np.zeros(4)}
    model = one_node("InstanceNormalization", constants=constants, shape=shape, epsilon=0.25)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    made = make_digestible(model, {"x": shape})
    assert any(node.op_type == "InstanceNormalization" for node in made.graph.node) == (len(shape) == 4)
    found = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            one_node("InstanceNormalization", constants={"scale": np.full(4, 2), "bias": np.zeros(4)}),
            "weights of its own",
        ),
        (one_node("LayerNormalization", constants={"scale": np.ones(6)}, opset=17), "export it with opset 16 or less"),
    ],
    ids=["weights", "epsilon"],
)
def test_refuses_what_would_be_computed_wrongly(model, message):
    with pytest.raises(UsageError, match=message):
        make_digestible(model, {"x": [1, 4, 6]})


def test_a_missing_onnxsim_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    with pytest.raises(UsageError, match=r"onnxsim is needed .*: pip install 'ascend-parallel\[convert\]'"):
        make_digestible(onnx.load(TINY / "unet" / "model.onnx"), {"sample": [1, 4, 8, 8]})


# ---- with a converter made for the test


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ascend-parallel" / "sd21"


@pytest.fixture
def fake(tmp_path):
    """Return a function: shell commands -> an "interpreter" that runs them as its converter; $3 is the ONNX file."""

    def make(commands, version="9.9"):
        file = tmp_path / "python"
        file.write_text(f'#!/bin/sh\n[ "$2" = --version ] && {{ echo loading; echo {version}; exit 0; }}\n{commands}\n')
        file.chmod(0o755)
        return str(file)

    return make


COPY = 'echo x >> "$0.calls"; cp "$2" "$3.mindir"'


@pytest.fixture
def folder(tmp_path):
    return find_models(make_folder(tmp_path / "models", TINY / "tokenizer"), "mslite")


def calls(python):
    return len(Path(f"{python}.calls").read_text().split())


def convert(folder, python, rows=2):
    return convert_folder(folder, dict.fromkeys(MODELS, rows), TOKENS, python)


def test_nothing_is_converted_twice(folder, cache, fake, capsys):
    first = convert(folder, fake(COPY))
    python = fake(COPY)
    assert calls(python) == 3
    assert convert(folder, python).files == first.files
    assert calls(python) == 3
    assert not first.needs_conversion
    assert sorted(cache.iterdir()) == sorted(first.files.values())
    assert capsys.readouterr().err.count("\n") == 3  # said once for each model


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda folder, fake: (folder, fake(COPY), 1), 3),
        (lambda folder, fake: (folder, fake(COPY, "9.10"), 2), 3),
        (lambda folder, fake: (touch(folder), fake(COPY), 2), 1),
    ],
    ids=["rows", "version", "model"],
)
def test_what_changed_is_converted_again(folder, cache, fake, change, again):
    python = fake(COPY)
    first = convert(folder, python)
    changed, python, rows = change(folder, fake)
    assert set(convert(changed, python, rows).files.values()) != set(first.files.values())
    assert calls(python) == 3 + again


def touch(folder):
    model = onnx.load(folder.files["unet"])
    model.doc_string = "another"
    onnx.save(model, folder.files["unet"])
    return folder


FAILURES = {
    "it fails": ('echo x > "$3.mindir"; echo some lines; echo the cause >&2; exit 1', "lines | the cause"),
    "it crashes": ('echo x > "$3.mindir"; kill -SEGV $$', "it printed nothing"),
}


@pytest.mark.parametrize(("commands", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failed_conversion_leaves_nothing(folder, cache, fake, commands, message):
    with pytest.raises(AscendParallelError, match=rf"could not convert .*text_encoder/model\.onnx: .*{message}"):
        convert(folder, fake(commands))
    assert list(cache.iterdir()) == []
    assert not convert(folder, fake(COPY)).needs_conversion


def hear_ctrl_c():
    """Undo what a shell does to programs in its background, of which these tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_conversion_leaves_nothing(tmp_path, cache, fake, folder):
    started = tmp_path / "started"
    os.mkfifo(started)
    python = fake(f'echo half > "$3.mindir"; echo $$ > {started}; exec sleep 100')
    command = [sys.executable, str(MAIN), "--models", str(folder.path), "--prompt", "x", "--engine", "mslite"]
    process = subprocess.Popen(
        [*command, "--worker-python", python], cwd=tmp_path, stderr=subprocess.DEVNULL, preexec_fn=hear_ctrl_c
    )
    watch = procs.Watch([int(started.read_text())])
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert list(cache.iterdir()) == []
    watch.wait_gone(5)


def test_a_cache_that_cannot_be_made_is_told(folder, monkeypatch, tmp_path, fake):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DiskError, match="is to hold converted models: set XDG_CACHE_HOME"):
        convert(folder, fake(COPY))


def test_a_file_that_is_no_onnx_is_told(folder, cache, fake):
    folder.files["unet"].write_bytes(b"text")
    with pytest.raises(UsageError, match=r"unet/model\.onnx is not a readable ONNX file"):
        convert(folder, fake(COPY))


# ---- with the real MindSpore Lite


def draw(output, *arguments):
    command = [sys.executable, str(MAIN), "--output", str(output), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    files = sorted(output.iterdir())
    return np.stack([np.asarray(Image.open(file)) for file in files]).astype(np.int16), done


@pytest.mark.mslite
def test_mindspore_lite_draws_the_same_pictures(tmp_path, cache):
    options = ["--engine", "mslite", "--worker-python", mslite_python()]
    made, done = draw(tmp_path / "made", *options)
    assert done.stdout.startswith("mslite on cpu:0, cpu:1, 30 steps")
    assert done.stderr.count("converting ") == 3
    wanted, _ = draw(tmp_path / "wanted")
    assert made.shape == wanted.shape == (4, 64, 64, 3)
    assert abs(made - wanted).max() <= LEVELS
    again, done = draw(tmp_path / "again", *options)
    assert "converting" not in done.stderr
    np.testing.assert_array_equal(again, made)


@pytest.mark.mslite
def test_mindspore_lite_draws_without_guidance_and_on_one_device(tmp_path, cache):
    options = ["--prompt", "a red circle on white", "--guidance-scale", "1", "--steps", "5", "--seed", "3"]
    wanted, _ = draw(tmp_path / "wanted", *options)
    options += ["--engine", "mslite", "--worker-python", mslite_python(), "--devices", "cpu:0"]
    made, _ = draw(tmp_path / "made", *options)
    assert abs(made - wanted).max() <= LEVELS


@pytest.mark.mslite
def test_the_version_is_found():
    assert find_version(mslite_python()) == "2.0.0"
