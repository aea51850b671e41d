"""ONNX files converted to MINDIR files by main.py: nothing twice, nothing partial, and the same pictures."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import convert_for_cpu
import numpy as np
import onnx
import pytest
from commands import TINY
from convert_for_cpu import convert_folder
from faults import procs
from models import mslite_python
from PIL import Image
from standins import make_folder

from ascend_parallel import AscendParallelError, DiskError, UsageError
from ascend_parallel.diffusion.model_folder import MODELS, find_models

MAIN = Path(convert_for_cpu.__file__).with_name("main.py")
#: The accepted difference between ONNX Runtime's and MindSpore Lite's pictures, in levels of 0..255. Measured: 2.
LEVELS = 3
TOKENS = 77


# ---- with a stand-in for the converter


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ascend-parallel" / "sd21"


@pytest.fixture
def fake(tmp_path):
    """Return a function: shell commands -> an "interpreter" that runs them as its converter.

    In the commands, $model is the ONNX file, and $output is the result's path without its suffix.
    """

    def make(commands, version="9.9"):
        file = tmp_path / "python"
        file.write_text(FAKE.format(version=version, commands=commands))
        file.chmod(0o755)
        return str(file)

    return make


FAKE = """#!/bin/sh
[ "$2" = --version ] && {{ echo loading; echo {version}; exit 0; }}
for word; do case $word in --modelFile=*) model=${{word#*=}};; --outputFile=*) output=${{word#*=}};; esac; done
{commands}
"""
COPY = 'echo x >> "$0.calls"; cp "$model" "$output.mindir"'


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
    manifests = [file.with_name(f"{file.name}.json") for file in first.files.values()]
    assert sorted(cache.iterdir()) == sorted([*first.files.values(), *manifests])
    assert capsys.readouterr().err.count("converting ") == 3  # printed once per model


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda folder, fake: (folder, fake(COPY), 1), 3),
        (lambda folder, fake: (folder, fake(COPY, "9.10"), 2), 3),
        (lambda folder, fake: (touch(folder), fake(COPY), 2), 1),
    ],
    ids=["rows", "version", "model"],
)
def test_a_change_causes_another_conversion(folder, cache, fake, change, again):
    python = fake(COPY)
    convert(folder, python)
    changed, python, rows = change(folder, fake)
    convert(changed, python, rows)
    assert calls(python) == 3 + again


def touch(folder):
    model = onnx.load(folder.files["unet"])
    model.doc_string = "another"
    onnx.save(model, folder.files["unet"])
    return folder


FAILURES = {
    "it fails": ('echo x > "$output.mindir"; echo some lines; echo the cause >&2; exit 1', "lines | the cause"),
    "it crashes": ('echo x > "$output.mindir"; kill -SEGV $$', "it printed nothing"),
}


@pytest.mark.parametrize(("commands", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failed_conversion_leaves_nothing(folder, cache, fake, commands, message):
    with pytest.raises(AscendParallelError, match=rf"could not convert .*text_encoder/model\.onnx: .*{message}"):
        convert(folder, fake(commands))
    assert list(cache.iterdir()) == []
    assert not convert(folder, fake(COPY)).needs_conversion


def restore_ctrl_c():
    """Restore the handling of SIGINT: a shell disables it for background programs, such as maybe these tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_conversion_leaves_nothing(tmp_path, cache, fake, folder):
    started = tmp_path / "started"
    os.mkfifo(started)
    python = fake(f'echo half > "$output.mindir"; echo $$ > {started}; exec sleep 100')
    command = [sys.executable, str(MAIN), "--models", str(folder.path), "--prompt", "x", "--engine", "mslite"]
    process = subprocess.Popen(
        [*command, "--worker-python", python], cwd=tmp_path, stderr=subprocess.DEVNULL, preexec_fn=restore_ctrl_c
    )
    watch = procs.Watch([int(started.read_text())])
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert list(cache.iterdir()) == []
    watch.wait_gone(5)


def test_a_cache_that_cannot_be_created_is_an_error(folder, monkeypatch, tmp_path, fake):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DiskError, match="is the folder for converted models: set XDG_CACHE_HOME"):
        convert(folder, fake(COPY))


def test_a_file_that_is_not_an_onnx_file_is_refused(folder, cache, fake):
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
    pictures, done = draw(tmp_path / "made", *options)
    assert done.stdout.startswith("mslite on cpu:0, cpu:1, 30 steps")
    assert done.stderr.count("converting ") == 3
    expected, _ = draw(tmp_path / "expected")
    assert pictures.shape == expected.shape == (4, 64, 64, 3)
    assert abs(pictures - expected).max() <= LEVELS
    again, done = draw(tmp_path / "again", *options)
    assert "converting" not in done.stderr
    np.testing.assert_array_equal(again, pictures)


@pytest.mark.mslite
def test_mindspore_lite_draws_without_guidance_and_on_one_device(tmp_path, cache):
    options = ["--prompt", "a red circle on white", "--guidance-scale", "1", "--steps", "5", "--seed", "3"]
    expected, _ = draw(tmp_path / "expected", *options)
    options += ["--engine", "mslite", "--worker-python", mslite_python(), "--devices", "cpu:0"]
    pictures, _ = draw(tmp_path / "made", *options)
    assert abs(pictures - expected).max() <= LEVELS
