"""The runner checks a model's manifest before it starts anything."""

import json
import os
import shutil

import models
import numpy as np
import pytest
from models import mslite_python

from ascend_parallel import Device, ParallelPredictUtils, UsageError, convert
from ascend_parallel.backends.processes import worker_process as worker
from ascend_parallel.model_manifest import check_manifest, read_manifest

CPUS = [Device("cpu", 0), Device("cpu", 1)]


@pytest.fixture
def nothing_is_started(monkeypatch):
    def fail(*_):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(worker, "start_process", fail)


@pytest.fixture
def mindir(here, converter_lite):
    """A model converted for Ascend by a stand-in for the converter: an ONNX file with another first field."""
    converter_lite.set_commands('(printf "\\n\\005MindSpore"; cat "$model") > "$output.mindir"')
    shutil.copy(models.unet(), "unet.onnx")
    (file,) = convert("unet.onnx", devices="ascend:0", output="unet.mindir")
    return file


def test_a_model_for_other_devices_is_refused_with_the_command_to_convert_it_again(mindir, nothing_is_started):
    with pytest.raises(UsageError) as caught:
        ParallelPredictUtils("unet.mindir", devices="cpu:0,1")
    assert str(caught.value) == (
        "unet.mindir was converted for ascend, not for cpu:0: convert unet.onnx again: ascend-parallel convert "
        "unet.onnx --devices cpu:0,1 --batch-per-device 1 --output unet.mindir"
    )


def test_the_options_that_determined_the_shapes_are_part_of_the_command(here, converter_lite, command_in_process):
    shutil.copy(models.unet("batch", opaque=True), "unet.onnx")
    shapes = "sample:2,2,4,4;ctx:2,3,4"
    convert("unet.onnx", devices="ascend:0,1", input_shape=shapes, batch_axes={"timestep": None}, output="x.mindir")
    with pytest.raises(UsageError) as caught:
        check_manifest("x.mindir", CPUS)
    words = str(caught.value).rpartition("again: ")[2]
    assert words == (
        "ascend-parallel convert unet.onnx --devices cpu:0,1 --batch-per-device 1 --input-shape "
        "'sample:-1,2,4,4;ctx:-1,3,4' --batch-axis timestep=none --output x.mindir"
    )


def test_a_missing_source_is_reported(mindir, here):
    (here / "unet.onnx").unlink()
    with pytest.raises(UsageError, match=r"convert unet\.onnx, which no longer exists, again"):
        check_manifest("unet.mindir", CPUS)


@pytest.mark.parametrize("change", ["grown", "flipped"])
def test_a_file_that_changed_since_the_conversion_is_refused(mindir, here, change):
    data = bytearray(mindir.read_bytes())
    before = mindir.stat()
    if change == "grown":
        mindir.write_bytes(data + b"x")
        os.utime(mindir, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        data[-2] ^= 1
        mindir.write_bytes(data)
    with pytest.raises(
        UsageError, match=r"unet\.mindir is not the file that unet\.mindir\.json describes: delete that manifest, or c"
    ):
        check_manifest("unet.mindir", [Device("ascend", 0)])


def test_a_copy_is_accepted(mindir, here):
    (here / "other").mkdir()
    for name in ("unet.mindir", "unet.mindir.json"):
        shutil.copy(name, here / "other")
        os.utime(here / "other" / name, (0, 0))
    assert check_manifest("other/unet.mindir", [Device("ascend", 1)]).rows == 1


def test_without_a_manifest_nothing_is_checked(mindir, here):
    (here / "unet.mindir.json").unlink()
    assert check_manifest("unet.mindir", CPUS) is None
    ParallelPredictUtils("unet.mindir", devices="cpu:0,1")


BROKEN = {
    "rubbish": ("{", "is not a readable manifest: convert the model again, or delete the file"),
    "no object": ("[]", "is not a readable manifest"),
    "of a newer version": (
        '{"format": 2}',
        "has format 2, but this version reads format 1: upgrade ascend-parallel, or delete the file",
    ),
    "something else": ('{"format": 1}', "is not a readable manifest"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_an_unreadable_manifest_is_refused(here, text, message):
    (here / "x.mindir.json").write_text(text)
    with pytest.raises(UsageError, match=rf"x\.mindir\.json {message}"):
        read_manifest(here / "x.mindir")


def test_a_manifest_survives_the_round_trip_through_json(mindir, here):
    manifest = read_manifest(mindir)
    stored = json.loads((here / "unet.mindir.json").read_text())
    assert json.loads(manifest.to_json()) == stored
    assert manifest.batch_axes == {"timestep": None}


@pytest.mark.mslite
def test_the_runner_uses_the_batch_axes_of_the_manifest(here):
    """Rows are on axis 1: without the manifest the runner needs batch_axes."""
    python = mslite_python()
    shapes = {"input_shape": "x:3,-1,4", "batch_axes": {"x": 1}, "batch_per_device": [2]}
    (file,) = convert(models.steps_first(), devices="cpu:0", worker_python=python, **shapes)
    x = models.weights(3, 4, 4)
    with ParallelPredictUtils(file, devices="cpu:0,1", worker_python=python, batch_axes={"y": 1}) as runner:
        np.testing.assert_array_equal(runner.predict({"x": x})["y"], 2 * x)
    (here / f"{file.name}.json").unlink()
    with ParallelPredictUtils(file, devices="cpu:0,1", worker_python=python) as runner:
        with pytest.raises(UsageError, match="batch_axes"):
            runner.predict({"x": x})
