"""``ascend-parallel convert`` with a stand-in for converter_lite: its command, its results, and errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import models
import onnx
import pytest
from converting import COPY, command, contents
from faults import procs
from models import mslite_python

from ascend_parallel import ConversionError, DiskError, UsageError, convert
from ascend_parallel.conversion.work_folder import PREFIX

TUTORIAL = (
    'converter_lite --modelFile=model.onnx --fmk=ONNX --outputFile=SD2.1_size512_bs1 --inputShape="sample:1,4,64,64;'
    'timestep:1;encoder_hidden_states:1,77,1024" --optimize=ascend_oriented'
)
WORDS = [
    "--fmk=ONNX",
    "--inputShape=sample:1,4,64,64;timestep:1;encoder_hidden_states:1,77,1024",
    "--optimize=ascend_oriented",
]
UNET = models.sd_unet


@pytest.fixture
def unet(here):
    """The tutorial's model, as model.onnx in the working folder."""
    return shutil.copy(UNET(), here / "model.onnx")


@pytest.mark.parametrize(
    ("batch", "steps", "options"),
    [
        (2, 1, []),
        ("batch", 1, ["--batch-per-device", "1"]),
        ("batch", 1, ["--input-shape", "sample:2,4,64,64;encoder_hidden_states:2,77,1024"]),
        ("batch_size", "steps", ["--input-shape", "sample:2,4,64,64;timestep:1;encoder_hidden_states:2,77,1024"]),
        (None, None, ["--input-shape", "timestep:1", "--batch-per-device", "1", "--batch-axis", "timestep=none"]),
    ],
)
def test_the_tutorial_s_command(here, command_in_process, batch, steps, options):
    shutil.copy(UNET(batch, steps), "model.onnx")
    words = ("convert", "model.onnx", "--devices", "ascend:0,1", "--name", "SD2.1_size512", "--dry-run", *options)
    assert command_in_process(*words) == (0, TUTORIAL + "\n", "")
    assert contents(here) == ["model.onnx"]


def test_the_command_of_converter_lite(here, unet, converter_lite):
    done = command("convert", "model.onnx", "--devices", "ascend:0,1", "--name", "SD2.1_size512")
    assert done.returncode == 0, done.stderr
    assert done.stdout == TUTORIAL + "\n"
    assert [word for word in converter_lite.words if word in WORDS] == WORDS
    model, output = (word for word in converter_lite.words if word not in WORDS)
    assert model == "--modelFile=model.onnx"
    assert output.startswith(f"--outputFile={PREFIX}") and output.endswith("/SD2.1_size512_bs1")
    assert contents(here) == ["SD2.1_size512_bs1.mindir", "SD2.1_size512_bs1.mindir.json", "model.onnx"]


def test_files_have_the_permissions_of_new_files(here, unet, converter_lite):
    before = os.umask(0o027)
    try:
        (file,) = convert(unet, devices="ascend:0,1", output="made/here")
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o640
    assert contents(here) == [
        "made",
        "made/here",
        "made/here/model_bs1.mindir",
        "made/here/model_bs1.mindir.json",
        "model.onnx",
    ]


def test_several_sizes_at_once(here, converter_lite):
    files = convert(models.two(), devices="ascend:0,1", batch_per_device=[1, 2, 4])
    assert [file.name for file in files] == ["two_batch_bs1.mindir", "two_batch_bs2.mindir", "two_batch_bs4.mindir"]
    assert "--inputShape=a:4,4;b:4,4" in converter_lite.words


def test_the_manifest_describes_the_source_and_the_target(here, unet, converter_lite):
    (file,) = convert(unet, devices="ascend:0,1", precision="fp32")
    manifest = json.loads((here / f"{file.name}.json").read_text())
    assert (manifest["source"], manifest["target"], manifest["precision"], manifest["rows"]) == (
        "model.onnx",
        "ascend",
        "fp32",
        1,
    )
    assert manifest["inputs"][1] == {"name": "timestep", "dtype": "float32", "shape": [1], "batch_axis": None}
    assert [item["batch_axis"] for item in manifest["inputs"]] == [0, None, 0]
    assert manifest["converter"] == "converter_lite"
    assert [item["path"] for item in manifest["files"]] == ["model_bs1.mindir", "model_bs1.cfg"]


def test_precision_is_written_to_a_configuration_file(here, unet, converter_lite):
    convert(unet, devices="ascend:0,1", precision="fp16", output="x.mindir")
    assert (here / "x.cfg").read_text() == "[ascend_context]\nprecision_mode=enforce_fp16\n"
    assert converter_lite.words[-1].endswith("/x.cfg")
    done = command(
        "convert", unet, "--devices", "ascend:0,1", "--precision", "fp16", "--output", "y.mindir", "--dry-run"
    )
    assert done.stdout.endswith("--optimize=ascend_oriented --configFile=y.cfg\n")
    assert done.stderr == "contents of y.cfg: [ascend_context] precision_mode=enforce_fp16\n"


def test_a_configuration_file_of_the_user_is_passed_on(here, unet, converter_lite):
    (here / "my.cfg").write_text("[ascend_context]\n")
    convert(unet, devices="ascend:0,1", config_file="my.cfg")
    assert converter_lite.words[-1] == "--configFile=my.cfg"


# ---- up to date


def test_nothing_is_converted_twice(here, unet, converter_lite):
    lines = []
    (file,) = convert(unet, devices="ascend:0,1", show=lines.append)
    assert convert(unet, devices="ascend:0,1", show=lines.append) == [file]
    assert converter_lite.calls == 1
    assert lines[1] == "model_bs1.mindir is up to date"
    os.utime(file)  # another modification time, but the same content
    convert(unet, devices="ascend:0,1")
    assert converter_lite.calls == 1


def touch_model(here):
    model = onnx.load("model.onnx")
    model.doc_string = "another"
    onnx.save(model, "model.onnx")


CHANGES = {
    "model": (touch_model, {}),
    "result": (lambda here: (here / "model_bs1.mindir").write_text("x"), {}),
    "result, of the same size": (lambda here: flip(here / "model_bs1.mindir"), {}),
    "no manifest": (lambda here: (here / "model_bs1.mindir.json").unlink(), {}),
    "a manifest of rubbish": (lambda here: (here / "model_bs1.mindir.json").write_text("{"), {}),
    "precision": (lambda here: None, {"precision": "fp16"}),
    "converter": (lambda here: append(here.parent / "bin/converter_lite"), {}),
}


def append(file):
    file.write_text(file.read_text() + "# of another build\n")


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(("change", "options"), CHANGES.values(), ids=CHANGES)
def test_a_change_causes_another_conversion(here, unet, converter_lite, change, options):
    convert("model.onnx", devices="ascend:0,1")
    change(here)
    convert("model.onnx", devices="ascend:0,1", **options)
    assert converter_lite.calls == 2
    convert("model.onnx", devices="ascend:0,1", **options)
    assert converter_lite.calls == 2


def test_external_weights_are_part_of_the_model(here, converter_lite):
    onnx.save(onnx.load(models.linear()), "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    for _ in range(2):
        convert("m.onnx", devices="ascend:0", batch_per_device=[2])
    assert converter_lite.calls == 1
    flip(here / "m.data")
    convert("m.onnx", devices="ascend:0", batch_per_device=[2])
    assert converter_lite.calls == 2
    (here / "m.data").unlink()
    with pytest.raises(UsageError, match=r"m\.onnx has its weights in m\.data, which does not exist"):
        convert("m.onnx", devices="ascend:0", batch_per_device=[2])


def test_a_model_too_large_for_one_file_has_its_weights_beside_it(here, unet, converter_lite):
    converter_lite.set_commands(
        'mkdir "${output}_variables"; echo w > "${output}_variables/data_0"; echo g > "${output}_graph.mindir"'
    )
    for _ in range(2):
        (file,) = convert(unet, devices="ascend:0,1", output="out")
        assert str(file) == "out/model_bs1.mindir"
    assert converter_lite.calls == 1
    assert contents(here / "out") == [
        "model_bs1.mindir",
        "model_bs1.mindir.json",
        "model_bs1_variables",
        "model_bs1_variables/data_0",
    ]
    (here / "out/model_bs1_variables/data_0").write_text("other")
    convert(unet, devices="ascend:0,1", output="out")
    assert converter_lite.calls == 2


# ---- errors: one sentence, an exit code, nothing is written

REFUSED = {
    "no such model": (["nope.onnx"], "there is no model file nope.onnx"),
    "no ONNX file": (["text.onnx"], "text.onnx is not an ONNX file"),
    "a MINDIR file": (["mindir.onnx"], "is not an ONNX file but, by its first bytes, a MINDIR file"),
    "no batch axis": (["scalars.onnx"], "no input of the model has a batch axis that can be divided"),
    "not divisible": (["model.onnx", "--devices", "ascend:0-2"], "the batch of 2 is not divisible by 3 devices"),
    "unknown name": (["model.onnx", "--input-shape", "smaple:2,4,64,64"], "--input-shape names 'smaple'; the model's"),
    "an open size": (["open.onnx", "--batch-per-device", "1"], "the input 'sample' of the model has open axes"),
    "an open batch": (["batch.onnx"], "the batch of the model is open"),
    "opset": (
        ["new.onnx", "--batch-per-device", "1"],
        "new.onnx has opset 18, but MindSpore Lite and CANN support 17 at most",
    ),
    "LayerNormalization": (["norm.onnx", "--devices", "cpu:0,1"], "LayerNormalization nodes, whose epsilon"),
    "a batch in the graph": (["built_in.onnx"], "has its batch built into the graph and cannot be converted to 1 rows"),
    "all sizes in the graph": (["built_in_2.onnx"], "has its batch built into the graph"),
    "target": (["model.onnx", "--target", "gpu"], "--target is 'gpu'; expected ascend or cpu"),
    "target and devices": (["model.onnx", "--target", "cpu"], "cannot run a model for cpu: name devices of one type"),
    "no target": (["model.onnx", "--devices", "gpu:0,1"], "the target cannot be determined from gpu:0, gpu:1"),
    "devices": (["model.onnx", "--devices", "tpu:0"], "unknown device type 'tpu'"),
    "precision": (["model.onnx", "--precision", "fp8"], "--precision is 'fp8'; expected fp16 or fp32"),
    "fp16 on CPUs": (
        ["model.onnx", "--devices", "cpu:0,1", "--precision", "fp16"],
        "--precision fp16 is not available on the CPU",
    ),
    "config file": (["model.onnx", "--config-file", "no.cfg"], "--config-file no.cfg: there is no such file"),
    "both": (
        ["model.onnx", "--config-file", "text.onnx", "--precision", "fp16"],
        "were both given; write precision_mode",
    ),
    "name of a folder": (["model.onnx", "--name", "a/b"], "--name 'a/b' is not a file name"),
    "two names": (["model.onnx", "--name", "a", "--output", "b.mindir"], "both name the file"),
    "one name, two sizes": (
        ["batch.onnx", "--batch-per-device", "1,2", "--output", "b.mindir"],
        "is one file, for 2 batch sizes; name a folder",
    ),
    "sizes": (["batch.onnx", "--batch-per-device", "one"], "--batch-per-device is 'one'; expected whole numbers"),
    "a file for a folder": (
        ["model.onnx", "--output", "text.onnx"],
        "text.onnx cannot be created: text.onnx is not a",
    ),
    "tolerance": (["model.onnx", "--tolerance", "0.1"], "--tolerance has no effect without --verify"),
    "no Ascend": (
        ["model.onnx", "--verify"],
        "--verify runs the MINDIR file on ascend:0, which this machine does not have",
    ),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_input_is_one_sentence(here, unet, converter_lite, command_in_process, words, message):
    (here / "text.onnx").write_text("text")
    (here / "mindir.onnx").write_bytes(b"\n\x05MindSpore")
    for name, source in {
        "scalars": models.scalars(),
        "open": UNET("n", 1),
        "batch": models.linear(),
        "new": models.mlp(opset=18),
        "norm": models.layer_norm_node(),
        "built_in": models.built_in_batch(),
        "built_in_2": models.built_in_batch((2, 8)),
    }.items():
        shutil.copy(source, here / f"{name}.onnx")
    if "open.onnx" in words:
        open_a_size(here / "open.onnx")
    before = contents(here)
    defaults = [] if "--devices" in words else ["--devices", "ascend:0,1"]
    code, stdout, stderr = command_in_process("convert", *words, *defaults)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("ascend-parallel: error: ") and stderr.count("\n") == 1
    assert message in stderr
    assert contents(here) == before
    assert converter_lite.calls == 0


def open_a_size(path):
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, path)


def test_without_a_converter_the_message_says_what_to_install(here, unet):
    done = command("convert", "model.onnx", "--devices", "ascend:0,1")
    assert done.returncode == 2
    assert "there is no converter: converter_lite is not on PATH" in done.stderr
    assert "pip install mindspore-lite" in done.stderr
    done = command("convert", "model.onnx", "--devices", "ascend:0,1", "--worker-python", "/no/python")
    assert "--worker-python='/no/python' is not an executable" in done.stderr
    assert contents(here) == ["model.onnx"]


#: Output of MindSpore Lite 2.0.0.
LOG = """\
[ERROR] ME(1,7f,x):2026-11-21 [lite/src/common/ops/populate/conv2d_populate.cc:90] Populate] stride is nullptr
[ERROR] LITE(1,7f,x):2026-11-21 [lite/tools/onnx_op_parser.cc:5669] Parse] pooling op not support dilations now
[ERROR] LITE(1,7f,x):2026-11-21 [lite/tools/onnx_op_parser.cc:3950] ConvertNodes] parse node MaxPool failed.
[ERROR] LITE(1,7f,x):2026-11-21 [lite/tools/converter.cc:9] Convert] Handle graph failed: -1 Common error code.
RuntimeError: Converter model failed! model_file is x.onnx, error is Common error code.
"""
FAILURES = {
    "it fails": (f"cat <<'END'\n{LOG}END\nexit 1", "pooling op not support dilations now | parse node MaxPool failed."),
    "no log of its own": ("echo some lines; echo the cause >&2; exit 1", "some lines | the cause"),
    "it says nothing": ("exit 3", "it printed nothing (exit code 3)"),
    "it crashes": ('echo half > "$output.mindir"; kill -SEGV $$', "it printed nothing (it was ended by signal 11)"),
    "it lacks a library": (
        "echo 'converter_lite: error while loading shared libraries: libmindspore_converter.so' >&2; exit 127",
        "add tools/converter/lib of MindSpore Lite's package to LD_LIBRARY_PATH",
    ),
    "it writes an .ms file": (
        'echo x > "$output.ms"',
        "wrote no model_bs1.mindir for model.onnx (it wrote model_bs1.ms)",
    ),
    "it writes nothing": ("exit 0", "wrote no model_bs1.mindir for model.onnx (it wrote nothing)"),
}


@pytest.mark.parametrize(("commands", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failed_conversion_shows_informative_lines_and_leaves_nothing(
    here, unet, converter_lite, command_in_process, commands, message
):
    converter_lite.set_commands(commands)
    words = ("convert", "model.onnx", "--devices", "ascend:0,1", "--output", "out/deep")
    code, _, stderr = command_in_process(*words)
    assert code == 7
    last = stderr.splitlines()[-1]
    assert last.startswith("ascend-parallel: error: ") and message in last
    assert "Common error code" not in last and "nullptr" not in last
    assert contents(here) == ["model.onnx"]


def test_debug_shows_the_whole_log(here, unet, converter_lite):
    converter_lite.set_commands(f"cat <<'END'\n{LOG}END\nexit 1")
    done = command("--debug", "convert", "model.onnx", "--devices", "ascend:0,1")
    assert LOG in done.stderr


def test_a_failed_conversion_leaves_existing_files_unchanged(here, unet, converter_lite):
    (file,) = convert(unet, devices="ascend:0,1")
    before = file.read_bytes()
    touch_model(here)
    converter_lite.set_commands('echo half > "$output.mindir"; exit 1')
    with pytest.raises(ConversionError, match="could not convert"):
        convert(unet, devices="ascend:0,1")
    assert file.read_bytes() == before
    assert contents(here) == ["model.onnx", "model_bs1.mindir", "model_bs1.mindir.json"]


def test_a_folder_that_cannot_be_written_to_is_told_before(here, unet, converter_lite, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    with pytest.raises(UsageError, match="out cannot be written to"):
        convert(unet, devices="ascend:0,1", output="out")
    assert converter_lite.calls == 0


def test_a_folder_that_turns_out_not_to_be_writable_is_an_error(here, unet, converter_lite):
    with pytest.raises(DiskError, match="/proc/nothing could not be written to"):
        convert(unet, devices="ascend:0,1", output="/proc/nothing")
    assert converter_lite.calls == 0


# ---- interruptions


def restore_ctrl_c():
    """Restore the handling of SIGINT: a shell disables it for background programs, such as maybe these tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_and_hang(here, converter_lite):
    """Start a conversion whose converter hangs with a child; return it, and a watch on the converter and the child."""
    os.mkfifo(here.parent / "started")
    converter_lite.set_commands(f'echo half > "$output.mindir"; sleep 100 & echo $$ $! > {here.parent}/started; wait')
    words = [sys.executable, "-m", "ascend_parallel", "convert", "model.onnx", "--devices", "ascend:0,1"]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=restore_ctrl_c)
    pids = [int(word) for word in (here.parent / "started").read_text().split()]
    return process, procs.Watch(pids), pids


def test_ctrl_c_ends_the_converter_and_leaves_nothing(here, unet, converter_lite):
    process, watch, _ = start_and_hang(here, converter_lite)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    watch.wait_gone(5)
    assert contents(here) == ["model.onnx"]


def test_kill_9_ends_the_converter_and_its_folder_is_removed_later(here, unet, converter_lite):
    process, _, (converter, child) = start_and_hang(here, converter_lite)
    watch = procs.Watch([converter])
    process.kill()
    process.wait(20)
    watch.wait_gone(5)  # the converter's child is not killed
    os.kill(child, signal.SIGKILL)
    left = [name for name in contents(here) if name.startswith(PREFIX)]
    assert left and "model_bs1.mindir" not in contents(here)
    os.utime(here / left[0], (0, 0))
    converter_lite.set_commands(COPY)
    convert(unet, devices="ascend:0,1")
    assert contents(here) == ["model.onnx", "model_bs1.mindir", "model_bs1.mindir.json"]


def test_a_running_conversion_keeps_its_folder(here, unet, converter_lite):
    """Two concurrent conversions do not remove each other's folders, however long they take."""
    gate = here.parent / "gate"
    os.mkfifo(gate)
    converter_lite.set_commands(
        f'touch -d @0 "$(dirname "$output")/.."; read word < {gate}; {COPY}; exit'
    )  # sh reads the script line by line
    done = []
    slow = threading.Thread(target=lambda: done.extend(convert(unet, devices="ascend:0,1", name="slow")))
    slow.start()
    with gate.open("w") as opened:  # waits for the converter
        converter_lite.set_commands(COPY)
        assert command("convert", "model.onnx", "--devices", "ascend:0,1", "--name", "fast").returncode == 0
        opened.write("go\n")
    slow.join(20)
    assert [file.name for file in done] == ["slow_bs1.mindir"]
    assert [name for name in contents(here) if name.startswith(".")] == []


# ---- the choice of the converter


@pytest.mark.mslite
def test_converter_lite_is_preferred_to_the_python_converter(here, unet, converter_lite):
    lines = []
    convert(unet, devices="ascend:0,1", worker_python=mslite_python(), show=lines.append)
    assert lines[0].startswith("converter_lite ")


def test_the_version_of_converter_lite_is_that_of_its_package(here, unet, tmp_path, monkeypatch, converter_lite):
    package = tmp_path / "mindspore-lite-2.3.1-linux-aarch64" / "converter"
    package.parent.mkdir()
    shutil.move(converter_lite.folder, package)
    monkeypatch.setenv("PATH", f"{package}:{os.environ['PATH']}")
    converter_lite.folder = package
    converter_lite.set_commands(COPY)
    (file,) = convert(unet, devices="ascend:0,1")
    assert json.loads((here / f"{file.name}.json").read_text())["converter_version"].startswith("2.3.1 (")
