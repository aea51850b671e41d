"""What the runner makes of a manifest: all before anything is started."""

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
    def refuse(*_):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(worker, "_start", refuse)


@pytest.fixture
def mindir(here, converter_lite):
    """A model for Ascend, of a stand-in for the converter: its first bytes are an ONNX file's but for one."""
    converter_lite.does('(printf "\\n\\005MindSpore"; cat "$model") > "$output.mindir"')
    shutil.copy(models.unet(), "unet.onnx")
    (file,) = convert("unet.onnx", devices="ascend:0", output="unet.mindir")
    return file


def test_a_model_for_other_devices_is_told_with_the_command_to_make_it_again(mindir, nothing_is_started):
    with pytest.raises(UsageError) as caught:
        ParallelPredictUtils("unet.mindir", devices="cpu:0,1")
    assert str(caught.value) == (
        "unet.mindir was converted for ascend, not for cpu:0: convert unet.onnx again: ascend-parallel convert "
        "unet.onnx --devices cpu:0,1 --batch-per-device 1 --output unet.mindir"
    )


def test_what_settled_the_shapes_is_part_of_the_command(here, converter_lite, command_in_process):
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


def test_a_source_that_is_gone_is_told(mindir, here):
    (here / "unet.onnx").unlink()
    with pytest.raises(UsageError, match=r"convert unet\.onnx, which is not there any more, again"):
        check_manifest("unet.mindir", CPUS)


@pytest.mark.parametrize("change", ["grown", "flipped"])
def test_a_file_that_is_not_the_one_that_was_made_is_told(mindir, here, change):
    data = bytearray(mindir.read_bytes())
    before = mindir.stat()
    if change == "grown":
        mindir.write_bytes(data + b"x")
        os.utime(mindir, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        data[-2] ^= 1
        mindir.write_bytes(data)
    with pytest.raises(
        UsageError, match=r"unet\.mindir is not the file that unet\.mindir\.json tells of: delete that, or conv"
    ):
        check_manifest("unet.mindir", [Device("ascend", 0)])


def test_a_copy_is_as_good(mindir, here):
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
    "of a newer version": ('{"format": 2}', "is of format 2, this version reads 1: upgrade ascend-parallel"),
    "something else": ('{"format": 1}', "is not a readable manifest"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_manifest_that_cannot_be_read_is_told(here, text, message):
    (here / "x.mindir.json").write_text(text)
    with pytest.raises(UsageError, match=rf"x\.mindir\.json {message}"):
        read_manifest(here / "x.mindir")


def test_it_is_read_as_it_was_written(mindir, here):
    manifest = read_manifest(mindir)
    told = json.loads((here / "unet.mindir.json").read_text())
    assert json.loads(manifest.to_json()) == told
    assert manifest.batch_axes == {"timestep": None}


@pytest.mark.mslite
def test_the_runner_knows_the_batch_axes_that_a_manifest_tells(here):
    """Rows along axis 1: without the manifest the runner has to be told."""
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
