"""``ascend-parallel convert --to om`` with a stand-in for CANN's atc: its command, its results, and errors."""

import json
import os
import shutil
import sys
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from converting import FakeConverter, contents

from ascend_parallel import ConversionError, ParallelPredictUtils, UsageError, convert
from ascend_parallel.conversion.atc import to_soc_version

ENGINES = Path(__file__).resolve().parent.parent / "engines"
NPU_SMI = Path(__file__).resolve().parent.parent / "devices" / "fixtures" / "npu-smi"
COPY = 'echo "ATC run success, welcome to the next use."; (printf IMOD; cat "$model") > "$output.om"'
CHIP = ["--soc-version", "Ascend310P3"]


@pytest.fixture
def atc(tmp_path, monkeypatch):
    """Put a stand-in for atc on PATH."""
    fake = FakeConverter(tmp_path / "bin", "atc", COPY)
    monkeypatch.setenv("PATH", f"{fake.folder}{os.pathsep}{os.environ['PATH']}")
    return fake


@pytest.fixture
def npu_smi(atc):
    """Return a function that puts an npu-smi on PATH that prints a recorded output, and nothing for ``-m``."""

    def use(capture):
        script = f'#!/bin/sh\n[ "$2" = -m ] || cat {NPU_SMI / capture}\n'
        (atc.folder / "npu-smi").write_text(script)
        (atc.folder / "npu-smi").chmod(0o755)

    return use


@pytest.fixture
def model(here):
    """An ONNX file with an open batch, as model.onnx in the working folder."""
    shutil.copy(models.linear(), here / "model.onnx")
    return "model.onnx"


COMMANDS = {
    "one size": (["--batch-per-device", "2"], '--output=model_bs2 --input_shape="x:2,8" --soc_version=Ascend310P3'),
    "divided": (
        ["--devices", "ascend:0,1", "--input-shape", "x:8,8"],
        "--output=model_bs4 --input_shape=x:4,8 --soc_version=Ascend310P3",
    ),
    "several sizes": (
        ["--dynamic-batch-size", "1,8,4"],
        "--output=model_bs1-4-8 --input_shape=x:-1,8 --soc_version=Ascend310P3 --dynamic_batch_size=1,8,4",
    ),
    "all options": (
        ["--batch-per-device", "1", "--precision-mode", "force_fp16", "--insert-op-conf", "aipp.cfg", "--name", "n"],
        "--output=n_bs1 --input_shape=x:1,8 --soc_version=Ascend310P3 --precision_mode=force_fp16 "
        "--insert_op_conf=aipp.cfg",
    ),
}


@pytest.mark.parametrize(("options", "words"), COMMANDS.values(), ids=COMMANDS)
def test_the_command(here, model, command_in_process, options, words):
    """Dry: neither atc nor a device is needed."""
    (here / "aipp.cfg").write_text("aipp_op {}")
    before = contents(here)
    code, stdout, stderr = command_in_process("convert", "model.onnx", "--to", "om", "--dry-run", *CHIP, *options)
    assert (code, stderr) == (0, "")
    assert stdout.replace('"', "") == f"atc --framework=5 --model=model.onnx {words}\n".replace('"', "")
    assert contents(here) == before


def test_the_chip_comes_from_npu_smi(here, model, command_in_process, npu_smi):
    npu_smi("01_300I_Duo_1card_2chips_npu-smi-25.2.0.txt")
    words = ("convert", "model.onnx", "--to", "om", "--dry-run", "--input-shape", "x:4,8")
    _, stdout, _ = command_in_process(*words)
    assert stdout.endswith("--input_shape=x:2,8 --soc_version=Ascend310P3\n"), "both chips share the batch"
    _, stdout, _ = command_in_process(*words, "--devices", "ascend:1", "--soc-version", "Ascend910B4")
    assert stdout.endswith("--input_shape=x:4,8 --soc_version=Ascend910B4\n")


@pytest.mark.parametrize("name", ["310P3", "Ascend 310P3", "Ascend310P3"])
def test_names_of_chips(name):
    assert to_soc_version(name) == "Ascend310P3"


def test_results_manifests_and_nothing_twice(here, model, atc):
    lines = []
    options = {"soc_version": "Ascend310P3", "dynamic_batch_size": [1, 4]}
    for _ in range(2):
        files = convert(model, to="om", output="out", atc_options=options, show=lines.append)
    assert [str(file) for file in files] == ["out/model_bs1-4.om"]
    assert lines[1] == "out/model_bs1-4.om is up to date" and atc.calls == 1
    assert contents(here / "out") == ["model_bs1-4.om", "model_bs1-4.om.json"]
    manifest = json.loads((here / "out/model_bs1-4.om.json").read_text())
    assert (manifest["target"], manifest["soc_version"], manifest["rows"]) == ("ascend", "Ascend310P3", 4)
    assert manifest["converter"] == "atc" and manifest["inputs"][0]["shape"] == [4, 8]
    assert manifest["shape_options"] == ["--to", "om", "--dynamic-batch-size", "1,4"]
    for change in ({"soc_version": "Ascend310P1"}, {"precision_mode": "force_fp32"}, {"dynamic_batch_size": [2, 4]}):
        convert(model, to="om", output="out/x.om", atc_options={**options, **change})
    assert atc.calls == 4


def test_some_versions_name_the_system_in_the_file(here, model, atc):
    atc.set_commands('cp "$model" "${output}_linux_aarch64.om"')
    (file,) = convert(model, to="om", batch_per_device=[2], atc_options={"soc_version": "Ascend310P3"})
    assert contents(here) == ["model.onnx", "model_bs2.om", "model_bs2.om.json"] and file.name == "model_bs2.om"


def test_a_model_is_refused_that_is_not_the_one_that_was_converted(here, model, atc):
    (file,) = convert(
        model, to="om", atc_options={"soc_version": "Ascend310P3", "dynamic_batch_size": [1, 4]}, output="x.om"
    )
    with pytest.raises(UsageError, match="the engine om does not run on cpu:0"):
        ParallelPredictUtils(file, devices="cpu:0")
    file.write_bytes(b"IMOD another")
    again = "ascend-parallel convert model.onnx --devices ascend:0,1 --to om --dynamic-batch-size 1,4 --output x.om"
    with pytest.raises(UsageError, match=f"delete that manifest, or convert model.onnx again: {again}"):
        ParallelPredictUtils(file, devices="ascend:0,1")


REFUSED = {
    "no chip": (["--batch-per-device", "1"], "npu-smi tells no chip of ascend:0: name the one to convert for"),
    "one gear": (["--dynamic-batch-size", "4"], "--dynamic-batch-size is 4; expected 2 to 100 numbers"),
    "a large gear": (["--dynamic-batch-size", "4,4096"], "expected 2 to 100 numbers from 1 to 2048"),
    "twice": (["--dynamic-batch-size", "4,4"], "each once"),
    "both": ([*CHIP, "--dynamic-batch-size", "1,2", "--batch-per-device", "1"], "were both given"),
    "a batch in the shape": (
        [*CHIP, "--dynamic-batch-size", "1,2", "--input-shape", "x:2,8"],
        "--input-shape gives 'x' a batch of 2; with --dynamic-batch-size write -1 there",
    ),
    "another axis": (
        [*CHIP, "--dynamic-batch-size", "1,2", "--batch-axis", "x=1"],
        "needs the batch on axis 0, but 'x' has it on axis 1",
    ),
    "precision": (["--precision", "fp16"], "--precision has no effect with --to om: use --precision-mode"),
    "config file": (["--config-file", "x"], "--config-file has no effect with --to om: ATC has none"),
    "precision mode": (["--precision-mode", "fp16"], "--precision-mode is 'fp16'; expected force_fp16 or"),
    "AIPP": (["--insert-op-conf", "no.cfg"], "--insert-op-conf no.cfg: there is no such file"),
    "chip": (["--soc-version", "310P3"], "--soc-version is '310P3'; expected a chip such as Ascend310P3"),
    "CPUs": ([*CHIP, "--devices", "cpu:0,1", "--batch-per-device", "1"], "cannot run a model for ascend"),
    "target": ([*CHIP, "--target", "cpu"], "--target is 'cpu'; expected ascend"),
    "an OM option without OM": (["--to", "mindir", *CHIP], "--soc-version is for OM files, and --to is mindir"),
    "format": (["--to", "trt"], "--to is 'trt'; expected mindir or om or onnx"),
    "an OM option for ONNX": (
        ["--to", "onnx", "--precision", "fp16", *CHIP],
        "--soc-version is for OM files, and --to is",
    ),
    "calibration": ([*CHIP, "--calibration", "x.npz"], "--calibration is for --to onnx --precision int8: leave it out"),
    "verify": ([*CHIP, "--batch-per-device", "1", "--verify"], "--verify runs the OM file on ascend:0, which this"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_input_is_one_sentence(here, model, atc, command_in_process, options, message):
    code, stdout, stderr = command_in_process("convert", "model.onnx", "--to", "om", *options)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("ascend-parallel: error: ") and stderr.count("\n") == 1
    assert message in stderr
    assert contents(here) == ["model.onnx"] and atc.calls == 0


BAD_OPTIONS = {
    "unknown": ({"socversion": "Ascend310P3"}, "an option of atc_options is 'socversion'; expected soc_version or"),
    "no list": ({"dynamic_batch_size": "1,2"}, "dynamic_batch_size is '1,2'; expected a list of numbers"),
    "no numbers": ({"dynamic_batch_size": ["1", "2"]}, "--dynamic-batch-size is 1,2; expected 2 to 100 numbers"),
    "no text": ({"soc_version": 310}, "soc_version is 310; expected a text"),
}


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_of_the_python_function(here, model, options, message):
    with pytest.raises(UsageError, match=message):
        convert(model, to="om", atc_options=options)


def test_chips_of_two_kinds(here, model, npu_smi, atc):
    npu_smi("01_300I_Duo_1card_2chips_npu-smi-25.2.0.txt")
    text = (NPU_SMI / "01_300I_Duo_1card_2chips_npu-smi-25.2.0.txt").read_text()
    (atc.folder / "two").write_text(text.replace("310P3", "310P1", 1))
    (atc.folder / "npu-smi").write_text(f'#!/bin/sh\n[ "$2" = -m ] || cat {atc.folder / "two"}\n')
    with pytest.raises(UsageError, match=r"are different chips \(Ascend310P1, Ascend310P3\): name the one"):
        convert(model, to="om", devices="ascend:0,1", batch_per_device=[1])


def test_without_atc(here, model):
    with pytest.raises(UsageError, match="there is no converter: atc is not on PATH; install CANN's toolkit"):
        convert(model, to="om", batch_per_device=[1], atc_options={"soc_version": "Ascend310P3"})


#: What atc prints, as bug reports show it.
START = "ATC start working now, please wait for a moment.\n...\n"
FAILED = "ATC run failed, Please check the detail log, Try 'atc --help' for more information\n"
FAILURES = {
    "an operator": (
        f"{START}{FAILED}EZ3003: [PID: 7] 2025-03-18-09:02:18.501.341 No supported Ops kernel and engine are found for "
        "[MyOp_1], optype [MyOp].\n        Possible Cause: The operator is not supported by the system.\n"
        "        Solution: 1. Check that the OPP component is installed properly.\n        TraceBack (most recent",
        "ATC could not convert model.onnx: the chip, or this CANN, has no kernel for an operator | EZ3003: No "
        "supported Ops kernel and engine are found for [MyOp_1], optype [MyOp]. | 1. Check that the OPP component",
    ),
    "an opset": (
        f"{START}{FAILED}E19010: No parser is registered for Op [div, optype [ai.onnx::23::Div]].\n",
        "cannot read an operator, often of a newer opset: export the model again with an older one | E19010: No",
    ),
    "a library": (
        "/usr/local/Ascend/bin/atc.bin: error while loading shared libraries: libascend_hal.so: cannot open\n",
        "add CANN's <arch>-linux/devlib to LD_LIBRARY_PATH",
    ),
    "nothing known": (f"{START}{FAILED}", "ATC run failed, Please check the detail log"),
    "nothing at all": ("", "it printed nothing (exit code 1)"),
}


@pytest.mark.parametrize(("log", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failed_conversion(here, model, atc, log, message):
    (here.parent / "log").write_text(log)
    atc.set_commands(f"cat {here.parent / 'log'}; exit 1")
    with pytest.raises(ConversionError) as raised:
        convert(model, to="om", batch_per_device=[1], atc_options={"soc_version": "Ascend310P3"})
    assert message in str(raised.value)
    assert contents(here) == ["model.onnx"]


def test_atc_that_writes_nothing(here, model, atc):
    atc.set_commands("echo ATC run success")
    with pytest.raises(ConversionError, match=r"wrote no model_bs1.om for model.onnx \(it wrote nothing\)"):
        convert(model, to="om", batch_per_device=[1], atc_options={"soc_version": "Ascend310P3"})


# ---- verify, with the stand-ins for atc, npu-smi and pyACL


@pytest.fixture
def converted(here, atc, npu_smi, monkeypatch):
    """Have atc write an OM file of the stand-in's that computes the same as model.onnx."""
    monkeypatch.syspath_prepend(str(ENGINES))
    monkeypatch.syspath_prepend(str(ENGINES / "standins"))
    import om_models

    npu_smi("01_300I_Duo_1card_2chips_npu-smi-25.2.0.txt")
    (weights,) = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(models.linear()).graph.initializer]
    written = om_models.write(
        here.parent / "written.om",
        {"x": ("float32", [-1, 8])},
        {"Relu_1:0:y": ("float32", "np.maximum(x @ w, 0)")},
        weights={"w": weights.tolist()},
        gears={"batch": [1, 4]},
    )
    atc.set_commands(f'cp {written} "$output.om"')
    return written


def test_verify(here, model, converted, command_in_process):
    words = ("convert", "model.onnx", "--to", "om", "--dynamic-batch-size", "1,4", "--verify")
    code, stdout, stderr = command_in_process(*words)
    assert code == 0, stderr
    assert stdout.splitlines()[1].startswith("y: largest difference ")
    assert contents(here) == ["model.onnx", "model_bs1-4.om", "model_bs1-4.om.json"]


def test_verify_finds_other_numbers(here, model, converted, command_in_process):
    converted.write_bytes(converted.read_bytes().replace(b"x @ w, 0", b"x @ w, 1"))
    words = ("convert", "model.onnx", "--to", "om", "--dynamic-batch-size", "1,4", "--verify")
    code, _, stderr = command_in_process(*words)
    assert code == 7 and "does not compute the same as model.onnx" in stderr
    assert contents(here) == ["model.onnx"]


def test_verify_without_a_runtime(here, model, converted, command_in_process, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(ENGINES / "standins")])
    words = ("convert", "model.onnx", "--to", "om", "--batch-per-device", "1", "--verify")
    code, _, stderr = command_in_process(*words)
    assert code == 2 and "--verify runs the OM file with pyACL, and" in stderr and "No module named 'acl'" in stderr


def test_the_result_runs(here, model, converted):
    (file,) = convert(model, to="om", atc_options={"dynamic_batch_size": [1, 4]})
    x = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)
    with ParallelPredictUtils(file, devices="ascend:0,1") as runner:
        y = runner.predict({"x": x})["y"]
    np.testing.assert_allclose(y, models.run_onnx(model, {"x": x})["y"], rtol=1e-4, atol=1e-5)
