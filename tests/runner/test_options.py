"""What is wrong is said before anything is started: one clear sentence, naming what it is about and what to do."""

import os
import re
import shutil

import models
import numpy as np
import pytest
from faults import procs

from ascend_parallel import DeviceSpecError, ParallelPredictUtils, ShapeError, UsageError
from ascend_parallel.backends import worker_environment
from ascend_parallel.backends.processes import worker_process as worker
from ascend_parallel.checks import find_python
from ascend_parallel.devices import Device, Discovery, FoundDevice
from ascend_parallel.runner import options as order


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch):
    """No test here may start a process."""

    def refuse(*_):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(worker, "start_process", refuse)
    before = procs.children()
    yield
    assert procs.children() == before


@pytest.fixture
def onnx(tmp_path):
    return shutil.copy(models.linear(), tmp_path / "model.onnx")


@pytest.fixture
def no_hardware(monkeypatch):
    """A machine that surely has no Ascend and no GPU."""
    _pretend(monkeypatch, [])


def _pretend(monkeypatch, devices):
    found = Discovery([FoundDevice(device) for device in devices], [], frozenset({"ascend", "gpu"}))
    monkeypatch.setattr("ascend_parallel.devices.discovery.discover", lambda: found)


def refused(words, *arguments, kind=UsageError, **options):
    """Check that a runner cannot even be made, and that the message says why in these words."""
    with pytest.raises(kind, match=words) as caught:
        ParallelPredictUtils(*arguments, **options).build_model()
    message = str(caught.value)
    assert "\n" not in message, "one sentence"
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code_of_cli == 2


# ---- models


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            "model.pb",
            r"engine for 'model.pb' cannot be determined .* a .mindir, .onnx or .om file or 'module:factory'.*engine=",
        ),
        ("", r"engine for '' cannot be determined"),
        (None, "model is None; expected the path of a file, or 'module:factory'"),
        (len, "model is <built-in function len>; expected the path of a file, or 'module:factory'"),
        ({}, "model is an empty dict; expected at least one name -> path"),
        ({1: "a.onnx"}, "model has the name 1; .*strings as names"),
        ({"unet": None}, "model 'unet' is None; expected the path of a file"),
        ({"a": "a.onnx", "b": "b.mindir"}, "one engine; by their suffixes these need mslite and onnxruntime"),
        ("nowhere.onnx", "there is no model file nowhere.onnx"),
        ("nowhere/x.mindir", "there is no model file nowhere/x.mindir"),
        ({"unet": "nowhere.onnx"}, "there is no model file nowhere.onnx"),
    ],
    ids=repr,
)
def test_models_that_cannot_be(model, words):
    refused(words, model, devices="cpu")


def test_a_missing_model_s_message_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(f"no model file x.onnx .in {re.escape(str(tmp_path))}", "x.onnx", devices="cpu")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.onnx", b"", "empty.onnx is empty; was its conversion or download interrupted"),
        ("empty.mindir", b"", "empty.mindir is empty"),
        ("a.mindir", b"\x08\x08:", "a.mindir is not a MINDIR file but, .* an ONNX file: convert it .converter_lite"),
        ("a.onnx", b"\n\x050.1.1\x12\tMindSpore*", "a.onnx is not an ONNX file but, .*run it with the mslite engine"),
        ("a.onnx", b"version https://git-lfs.github.com/spec/v1\n", "a.onnx is not the model .* run git lfs pull"),
        ("a.mindir", b"version https://git-lfs.github.com/spec/v1\n", "a.mindir is not the model .* git lfs pull"),
    ],
)
def test_files_of_the_wrong_kind(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    refused(words, tmp_path / name, devices="cpu")


def test_a_directory_is_no_model(tmp_path):
    (tmp_path / "model.onnx").mkdir()
    refused("model.onnx is not a file; expected a .onnx or .ort file", tmp_path / "model.onnx", devices="cpu")


def test_a_file_that_may_not_be_read(onnx, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    refused("model.onnx cannot be read: its permissions are 0o", onnx, devices="cpu")


# ---- engines and their options


def test_an_unknown_engine(onnx):
    refused(
        "engine 'tensorflow' is unknown; expected one of mslite, onnxruntime, om, callable, simulated, or 'package",
        onnx,
        engine="tensorflow",
    )


@pytest.mark.parametrize(
    ("model", "engine", "words"),
    [
        ("x.mindir", "onnxruntime", "x.mindir is a model for the engine mslite, not for onnxruntime: leave engine out"),
        ("x.onnx", "mslite", "x.onnx is a model for the engine onnxruntime, not for mslite: .*convert .* to .mindir"),
        ("x.onnx", "callable", "'x.onnx' does not name a callable; expected 'module:factory' or 'path/to/file.py"),
        ("module:", "callable", "'module:' does not name a callable"),
        (":factory", None, "':factory' does not name a callable"),
    ],
)
def test_a_model_of_another_engine(model, engine, words):
    refused(words, model, engine=engine, devices="cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"thread": 1}, "onnxruntime has no option 'thread'; it has: provider, provider_options, session_config, thre"),
        ({"threads": "2"}, "option 'threads' of the engine onnxruntime is '2'; expected int"),
        ({"threads": True}, "option 'threads' of the engine onnxruntime is True; expected int"),
        ({"session_config": {"a": lambda: 0}}, "engine_options cannot be sent to a worker .*; use plain numbers"),
        ({"session_config": {"a": np.ones(2)}}, "engine_options cannot be sent to a worker .*numpy.*; use plain numb"),
        ("threads=1", "engine_options is 'threads=1'; expected a dict of option -> value"),
    ],
    ids=repr,
)
def test_engine_options(onnx, options, words):
    refused(words, onnx, devices="cpu", engine_options=options)


def test_options_of_the_simulated_engine():
    refused(
        "simulated has no option 'ms'; it has: ms_per_row", "m", engine="simulated", devices="simulated:0",
        engine_options={"ms": 1},
    )  # fmt: skip


# ---- devices


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"devices": "simulated:0"},
            "onnxruntime does not run on simulated:0; it runs on cpu, gpu, tensorrt, openvino, ",
        ),
        ({"devices": "cpu", "device_num": 2}, "device_num and devices were both given; .*with devices alone"),
        ({"device_num": 0}, "device_num is 0; expected a number of devices, at least 1"),
        ({"device_num": "2"}, "device_num is '2'; expected a number of devices"),
        ({"device_num": True}, "device_num is True; expected a number of devices"),
        ({"devices": "tpu:0"}, "unknown device type 'tpu'"),
        ({"devices": "cpu:0,0"}, "cpu:0 is named twice"),
        ({"devices": []}, "list of devices is empty"),
        ({"devices": "ascend:0"}, "there is no device ascend:0 here: .*shows no ascend .*ascend-parallel devices"),
        ({"devices": "gpu:0"}, "there is no device gpu:0 here: .*shows no gpu"),
    ],
    ids=str,
)
def test_devices_that_cannot_be(onnx, no_hardware, options, words):
    refused(words, onnx, **options)


def test_simulated_models_run_on_simulated_devices_only():
    refused("engine simulated does not run on cpu:0; it runs on simulated", "m", engine="simulated", devices="cpu:0")


def test_a_device_beyond_those_that_are_there(onnx, monkeypatch):
    _pretend(monkeypatch, [Device("ascend", 0), Device("ascend", 1)])
    refused(
        "there is no device ascend:2 here: this process has only ascend:0, ascend:1",
        onnx,
        devices="ascend:1,2",
        kind=DeviceSpecError,
    )


def test_the_tutorial_s_number_of_devices_means_ascend(tmp_path, monkeypatch):
    (tmp_path / "x.mindir").write_bytes(b"\n\x050.1.1\x12\tMindSpore*")
    _pretend(monkeypatch, [Device("ascend", i) for i in range(4)])
    runner = ParallelPredictUtils(tmp_path / "x.mindir", 2)
    assert [str(device) for device in runner.devices] == ["ascend:0", "ascend:1"]
    _pretend(monkeypatch, [Device("ascend", 0)])
    refused("there is no device ascend:1 here: this process has only ascend:0", tmp_path / "x.mindir", 2)


@pytest.mark.parametrize(
    ("there", "number", "wanted"),
    [
        ([], None, ["cpu:0"]),
        ([], 2, ["cpu:0", "cpu:1"]),
        ([Device("gpu", 0), Device("gpu", 1)], None, ["gpu:0", "gpu:1"]),
        ([Device("gpu", 0), Device("gpu", 1)], 1, ["gpu:0"]),
        ([Device("ascend", 0), Device("ascend", 1)], None, ["ascend:0", "ascend:1"]),
    ],
)
def test_devices_that_are_not_named_are_the_machine_s_best(onnx, monkeypatch, there, number, wanted):
    _pretend(monkeypatch, there)
    assert [str(device) for device in ParallelPredictUtils(onnx, number).devices] == wanted


# ---- numbers, times, axes, interpreters


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"instances": 0}, "instances is 0; expected a whole number, at least 1"),
        ({"instances": True}, "instances is True; expected a whole number"),
        ({"chunk_size": 0}, "chunk_size is 0; expected a whole number, at least 1"),
        ({"chunk_size": -1}, "chunk_size is -1; expected a whole number, at least 1"),
        ({"chunk_size": 2.5}, "chunk_size is 2.5; expected a whole number"),
        ({"warmup": -1}, "warmup is -1; expected a whole number, at least 0"),
        ({"max_retries": -1}, "max_retries is -1; expected a whole number, at least 0"),
        ({"max_restarts": "3"}, "max_restarts is '3'; expected a whole number"),
        ({"predict_timeout_s": 0}, "predict_timeout_s is 0; expected seconds, more than 0"),
        ({"build_timeout_s": "1"}, "build_timeout_s is '1'; expected seconds"),
        ({"build_timeout_s": float("nan")}, "build_timeout_s is nan; expected seconds"),
        ({"batch_axes": ["x"]}, r"batch_axes is \['x'\]; expected a dict such as"),
        ({"batch_axes": {"x": "0"}}, "batch_axes says '0' for 'x'; expected a number, or None"),
        ({"batch_axes": {"x": 1.0}}, "batch_axes says 1.0 for 'x'"),
        ({"worker_python": "/nowhere/python"}, "worker_python='/nowhere/python' is not an executable; .*bin/python"),
        ({"worker_python": "/tmp"}, "worker_python='/tmp' is not an executable"),
        ({"worker_python": 3}, "worker_python is 3; expected the path of a Python interpreter"),
    ],
    ids=repr,
)
def test_arguments_that_cannot_be(onnx, options, words):
    refused(words, onnx, devices="cpu", **options)


def test_a_misspelt_argument_is_an_error(onnx):
    with pytest.raises(TypeError, match="chunksize"):
        ParallelPredictUtils(onnx, chunksize=3)


# ---- what is ordered of the workers


def worker_specs(instances=1, devices=2, engine="onnxruntime", **options):
    return order.make_worker_specs(
        {"": "m.onnx"},
        order.ENGINES[engine],
        [Device("cpu", i) for i in range(devices)],
        options=options,
        instances=instances,
        worker_python=None,
        warmup=1,
    )


def test_threads_are_the_cores_shared_out(monkeypatch):
    monkeypatch.setattr(worker_environment, "usable_cores", lambda: 8)
    for name in worker_environment.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert [spec.request["options"]["threads"] for spec in worker_specs()] == [4, 4]
    assert [spec.request["options"]["threads"] for spec in worker_specs(instances=2)] == [2, 2]
    assert [spec.request["options"]["threads"] for spec in worker_specs(devices=3)] == [2, 2, 2]
    assert [spec.request["options"]["threads"] for spec in worker_specs(devices=16)] == [1] * 16
    assert worker_specs(threads=3)[0].request["options"]["threads"] == 3
    assert {worker_specs()[0].environ[name] for name in worker_environment.THREAD_VARIABLES} == {"4"}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert worker_specs()[0].environ["OMP_NUM_THREADS"] == "7"
    assert "threads" not in worker_specs(engine="mslite")[0].request["options"]  # 1: see mslite.py


def test_instances_are_threads_where_weights_are_shared_and_processes_elsewhere():
    assert [(p.label, p.request["instances"]) for p in worker_specs(instances=3)] == [("cpu:0", 3), ("cpu:1", 3)]
    labels = ["cpu:0#0", "cpu:0#1", "cpu:1#0", "cpu:1#1"]
    assert [p.label for p in worker_specs(instances=2, engine="callable")] == labels


def test_workers_find_files_after_a_chdir(onnx, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert worker_specs()[0].request["models"][""] == str(tmp_path / "m.onnx")
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    assert find_python("./python") == str(tmp_path / "python")


def test_a_venv_s_interpreter_is_not_resolved(tmp_path):
    (tmp_path / "python").symlink_to("/bin/sh")
    assert find_python(tmp_path / "python") == str(tmp_path / "python")


def test_shape_errors_are_usage_errors():
    assert issubclass(ShapeError, UsageError)
