"""Which models of a folder are used, and which files pictures are written to."""

from pathlib import Path

import numpy as np
import pictures
import pytest
from commands import TINY
from pictures import choose_files, make_folder, save
from PIL import Image
from standins import make_folder as make_models

from ascend_parallel import Device, DiskError, UsageError
from ascend_parallel.devices import Discovery, FoundDevice
from ascend_parallel.diffusion.model_folder import MODELS, find_models

PICTURE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(1, 4, 5, 3)


def discovery_of(kind):
    return Discovery([FoundDevice(Device(kind, 0))])


def add_mindir(path, names=MODELS):
    for name in names:
        (path / name / "model.mindir").write_bytes(b"MindSpore")


@pytest.fixture
def folder(tmp_path):
    return make_models(tmp_path / "models", TINY / "tokenizer")


@pytest.mark.parametrize(
    ("device", "engine", "suffix", "expected_engine"),
    [
        ("cpu", None, ".onnx", "onnxruntime"),
        ("ascend", None, ".mindir", "mslite"),
        ("cpu", "mslite", ".mindir", "mslite"),
        ("ascend", "onnxruntime", ".onnx", "onnxruntime"),
    ],
)
def test_of_both_kinds_the_one_for_the_machine_is_used(folder, monkeypatch, device, engine, suffix, expected_engine):
    monkeypatch.setattr("ascend_parallel.devices.discovery.discover", lambda: discovery_of(device))
    add_mindir(folder)
    models = find_models(folder, engine)
    assert {file.suffix for file in models.files.values()} == {suffix}
    assert (models.engine, models.needs_conversion) == (expected_engine, False)


def test_mindir_files_alone_are_for_mindspore_lite(folder):
    add_mindir(folder)
    for name in MODELS:
        (folder / name / "model.onnx").unlink()
    assert find_models(folder, None).engine == "mslite"
    with pytest.raises(UsageError, match=r"has no text_encoder/model\.onnx; the engine onnxruntime needs one for each"):
        find_models(folder, "onnxruntime")


def test_onnx_files_alone_are_converted_for_mindspore_lite(folder):
    add_mindir(folder, ["unet"])  # not all three: the complete set is used
    assert find_models(folder, "mslite").needs_conversion
    assert find_models(folder, None).engine == "onnxruntime"


def test_a_missing_file_of_the_nearly_complete_set_is_named(folder):
    add_mindir(folder, ["text_encoder", "unet"])
    for name in ("text_encoder", "vae_decoder"):
        (folder / name / "model.onnx").unlink()
    with pytest.raises(UsageError, match=r"has no vae_decoder/model\.mindir"):
        find_models(folder, None)


def test_weights_beside_onnx_files_are_mapped(folder):
    assert find_models(folder, None).engine_options == {}
    for name in MODELS:
        (folder / name / "model.onnx_data").touch()
    options = find_models(folder, None).engine_options
    assert options["session_config"]["session.disable_prepacking"] == "1"
    add_mindir(folder)
    assert find_models(folder, "mslite").engine_options == {}


@pytest.mark.parametrize(
    ("output", "prompts", "names"),
    [
        ("one.png", ["a"], ["one.png"]),
        ("one.PNG", ["a"], ["one.PNG"]),
        ("x-{}.png", ["a"], ["x-0.png"]),
        ("x-{}.png", ["a", "a"], ["x-0.png", "x-1.png"]),
        ("new/folder", ["a Red, circle!", ""], ["new/folder/0-a-red-circle.png", "new/folder/1-picture.png"]),
        ("v1.5", ["../../etc/passwd"], ["v1.5/0-etc-passwd.png"]),
        (".", ["é" * 500], [f"0-{'é' * 60}.png"]),
    ],
)
def test_names_of_pictures(tmp_path, monkeypatch, output, prompts, names):
    monkeypatch.chdir(tmp_path)
    files = choose_files(Path(output), prompts)
    assert [str(file) for file in files] == names
    make_folder(files[0].parent)
    save(np.repeat(PICTURE, len(prompts), axis=0), files)
    for file in files:
        np.testing.assert_array_equal(np.asarray(Image.open(file)), PICTURE[0])
        assert list(file.parent.glob(".*")) == []


@pytest.mark.parametrize("content", [b"my notes", b"\x89PNG\r\n", b"GIF89a"])
def test_a_file_that_is_not_a_png_is_never_overwritten(tmp_path, content):
    file = tmp_path / "x.png"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.png exists and is not a PNG file; it is not overwritten"):
        choose_files(file, ["a"])
    assert file.read_bytes() == content


def test_an_empty_file_and_a_png_are_overwritten(tmp_path):
    (tmp_path / "x.png").touch()
    for _ in range(2):
        save(PICTURE, choose_files(tmp_path / "x.png", ["a"]))


def test_a_folder_with_a_pictures_name_is_refused(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(UsageError, match=r"x\.png is a folder; expected the name of a PNG file"):
        choose_files(tmp_path / "x.png", ["a"])


def test_a_full_disk_leaves_no_partial_picture(tmp_path, monkeypatch):
    def fill(picture, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures, "_save_atomically", fill)
    with pytest.raises(DiskError, match=r"x\.png could not be written: No space left on device"):
        save(PICTURE, [tmp_path / "x.png"])
    assert list(tmp_path.iterdir()) == []
