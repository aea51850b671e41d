"""scripts/convert_models.sh: help, options, and the tiny Stable Diffusion from ONNX files to a picture."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from converting import TINY, contents
from models import mslite_python

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "convert_models.sh"
MAIN = ROOT / "examples" / "sd21" / "main.py"
HOW = ("--steps", 5, "--guidance-scale", 4)
MADE = [f"{name}/model.mindir{suffix}" for name in ("text_encoder", "unet", "vae_decoder") for suffix in ("", ".json")]


def run(*words, **environ):
    return subprocess.run(
        [*map(str, words)],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "PYTHON": sys.executable, **environ},
    )


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), ([], 2), (["--devices"], 2)])
def test_help(words, code):
    done = run(SCRIPT, *words)
    assert done.returncode == code
    assert done.stdout.startswith("usage: convert_models.sh MODELS [OUT] [OPTION...]")
    for word in ("--devices ascend:0,1", "--verify", "UNET_SHAPE", "examples/sd21/main.py --models OUT"):
        assert word in done.stdout


def test_dry_run_prints_three_commands_and_writes_nothing(here):
    done = run(SCRIPT, TINY, "out", "--devices", "ascend:0,1", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[3] for line in lines] == [
        "--outputFile=out/text_encoder/model",
        "--outputFile=out/unet/model",
        "--outputFile=out/vae_decoder/model",
    ]
    assert '--inputShape="sample:1,4,8,8;timestep:1;encoder_hidden_states:1,77,48"' in lines[1]
    assert contents(here) == []


def test_a_model_that_fails_ends_the_script(here):
    done = run(SCRIPT, TINY, "out", "--devices", "ascend:0,1", "--dry-run", UNET_SHAPE="smaple:1")
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert "--input-shape names 'smaple'" in done.stderr


def test_the_default_output_is_beside_the_onnx_files(here, converter_lite):
    shutil.copytree(TINY, "models")
    before = contents(here / "models")
    done = run(SCRIPT, "models", "--devices", "ascend:0,1", "--batch-per-device", "2")
    assert done.returncode == 0, done.stderr
    assert sorted({*contents(here / "models")} - {*before}) == MADE
    assert "--inputShape=latent_sample:2,4,8,8" in converter_lite.words


@pytest.mark.mslite
def test_the_tiny_model_from_onnx_files_to_a_picture(here):
    from PIL import Image

    words = ("--devices", "cpu:0,1", "--worker-python", mslite_python())
    done = run(SCRIPT, TINY, "out", *words, "--verify")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("largest difference") == 4  # the text encoder has two outputs
    assert "leaked" not in done.stderr  # onnxsim's message if the interpreter's exit is cut short
    assert {*MADE} <= {*contents(here / "out")}
    pictures = []
    for options in (("--models", "out", "--engine", "mslite", *words), ("--models", TINY, "--devices", "cpu:0,1")):
        file = here / f"{len(pictures)}.png"
        done = run(sys.executable, MAIN, *options, "--prompt", "a red circle on white", *HOW, "--output", file)
        assert done.returncode == 0, done.stderr
        assert "converting" not in done.stderr
        pictures.append(np.asarray(Image.open(file)).astype(int))
    assert abs(pictures[0] - pictures[1]).max() <= 3
