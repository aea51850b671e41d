"""``python examples/sd21/main.py`` as a user runs it: pictures without any option, and one-line errors."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import main
import numpy as np
import pytest
from commands import INTERRUPTED, TINY
from faults import procs
from PIL import Image
from shapes import recognise
from standins import make_folder
from typer.testing import CliRunner

from ascend_parallel import DiskError, EngineError, ParallelPredictUtils, UsageError
from ascend_parallel.diffusion.model_folder import ModelFolder

MAIN = Path(main.__file__)


def run(*arguments, cwd, **changes):
    """Run the example as a program."""
    return subprocess.run(
        [sys.executable, str(MAIN), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        timeout=100,
    )


def read(file):
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def test_without_options_it_draws_its_prompts(tmp_path, leaves_nothing):
    done = run(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar without a terminal
    first, second, *files = done.stdout.splitlines()
    assert first == "onnxruntime on cpu:0, cpu:1, 30 steps, seed 0"
    assert second.startswith("Total predict time = ") and second.endswith(" s")
    assert sorted(map(str, (tmp_path / "out" / "pictures").iterdir())) == sorted(str(tmp_path / file) for file in files)
    assert [recognise(read(tmp_path / file)).prompt for file in files] == main.TINY_PROMPTS


def test_it_draws_with_another_folder_of_models(tmp_path):
    models = make_folder(tmp_path / "models", TINY / "tokenizer")
    output = tmp_path / "new" / "picture.png"
    done = run("--models", models, "--prompt", "x", "--steps", 3, "--seed", 4, "--output", output, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "onnxruntime on cpu:0, 3 steps, seed 4"
    assert done.stdout.splitlines()[2:] == [str(output)]
    assert read(output).shape == (48, 80, 3)


def test_a_pattern_numbers_the_pictures(tmp_path):
    output = tmp_path / "picture-{}.png"
    done = run("--prompt", "a red ring", "--prompt", "a black cross", "--steps", 1, "--output", output, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["picture-0.png", "picture-1.png"]


def test_each_prompt_several_times_with_consecutive_seeds(tmp_path):
    options = ["--steps", 2, "--prompt", "a red ring", "--prompt", "a black cross"]
    done = run(*options, "--num-images", 2, "--seed", 5, "--output", "many", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = ["0-a-red-ring.png", "1-a-red-ring.png", "2-a-black-cross.png", "3-a-black-cross.png"]
    assert sorted(file.name for file in (tmp_path / "many").iterdir()) == names
    pictures = [read(tmp_path / "many" / name).astype(int) for name in names]
    alone = run("--steps", 2, "--prompt", "a black cross", "--seed", 8, "--output", "alone.png", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    differences = [abs(picture - read(tmp_path / "alone.png")).max() for picture in pictures]
    assert differences[3] <= 1 and min(differences[:3]) > 10


def test_a_picture_is_overwritten(tmp_path):
    for seed in (1, 2):
        done = run("--prompt", "a ring", "--steps", 1, "--seed", seed, "--output", "x.png", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


def test_a_prompt_that_is_too_long_is_cut_off_with_a_warning(tmp_path):
    done = run("--prompt", "a red circle " * 30 + "end", "--steps", 1, "--output", "x.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("main.py: warning: the prompt is longer than 75 tokens; cut off: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "engine", "suffix", "devices"),
    [
        (TINY, "onnxruntime", ".onnx", "cpu:0,1"),
        (TINY, "mslite", ".onnx", "cpu:0,1"),
        (TINY, "mslite", ".mindir", None),  # the runner uses the machine's Ascend devices
        (Path("real"), "onnxruntime", ".onnx", None),
        (Path("real"), "mslite", ".onnx", "cpu:0,1"),
    ],
)
def test_default_devices(path, engine, suffix, devices):
    folder = ModelFolder(path, engine, {"unet": path / f"model{suffix}"}, {})
    assert main.default_devices(folder) == devices


@pytest.fixture
def nothing_starts(monkeypatch):
    """Fail a test that starts a worker."""
    monkeypatch.setattr(ParallelPredictUtils, "build_model", lambda self: pytest.fail("a worker was started"))


def without(tmp_path, name):
    """Return a folder without one file or sub-folder."""
    path = make_folder(tmp_path / "models", TINY / "tokenizer")
    target = path / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    return path


def filled(tmp_path, name, content="text"):
    """Return a folder in which one file has other content."""
    path = make_folder(tmp_path / "models", TINY / "tokenizer")
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text(content)
    return path


ONE = ["--prompt", "a ring"]
WRONG = {  # what is wrong -> (the test's folder -> arguments, a part of the message)
    "no such folder": (lambda p: ["--models", p / "no", *ONE], "no: there is no such folder"),
    "a file for a folder": (lambda p: ["--models", MAIN, *ONE], "there is no such folder"),
    "an empty folder": (
        lambda p: ["--models", p, *ONE],
        "has no tokenizer/vocab.json; expected the layout of diffusers",
    ),
    "no U-Net": (lambda p: ["--models", without(p, "unet"), *ONE], "has no unet/model.onnx; the engine onnxruntime"),
    "no scheduler": (lambda p: ["--models", without(p, "scheduler"), *ONE], "has no scheduler/scheduler_config.json"),
    "no merges": (lambda p: ["--models", without(p, "tokenizer/merges.txt"), *ONE], "has no tokenizer/merges.txt"),
    "an empty model": (lambda p: ["--models", filled(p, "unet/model.onnx", ""), *ONE], r"unet/model.onnx is empty"),
    "settings that are not JSON": (
        lambda p: ["--models", filled(p, "vae_decoder/config.json"), *ONE],
        "vae_decoder/config.json is not a readable JSON file",
    ),
    "a vocabulary that is not JSON": (
        lambda p: ["--models", filled(p, "tokenizer/vocab.json"), *ONE],
        "merges.txt beside it",
    ),
    "a scheduler that is not JSON": (
        lambda p: ["--models", filled(p, "scheduler/scheduler_config.json"), *ONE],
        "scheduler_config.json does not contain a JSON object",
    ),
    "no prompt": (lambda p: ["--models", make_folder(p / "m", TINY / "tokenizer")], "--prompt is missing: it says"),
    "an engine of another kind": (
        lambda p: ["--engine", "simulated"],
        "simulated does not draw pictures; expected mslite",
    ),
    "no MINDIR for Ascend": (
        lambda p: ["--engine", "mslite", "--devices", "ascend:0,1"],
        "has only ONNX files, which this command converts for the CPU only; for ascend:0,1 convert them first",
    ),
    "no MindSpore Lite": (
        lambda p: ["--engine", "mslite"],
        "python.* cannot import mindspore_lite \\(ModuleNotFoundError.*--worker-python",
    ),
    "no interpreter": (
        lambda p: ["--engine", "mslite", "--worker-python", p / "python"],
        "--worker-python='.*/python' is not an executable",
    ),
    "no interpreter for ONNX": (lambda p: ["--worker-python", p / "python"], "is not an executable"),
    "unknown devices": (lambda p: ["--devices", "cqu:0"], "unknown device type 'cqu'"),
    "no steps": (lambda p: ["--steps", "0"], "steps must be 1 to 1000"),
    "steps that are not a number": (lambda p: ["--steps", "many"], "Invalid value for '--steps'"),
    "an unknown option": (lambda p: ["--stpes", "3"], "No such option.*--stpes.*--steps"),
    "guidance that is not a number": (
        lambda p: ["--guidance-scale", "nan"],
        "--guidance-scale is nan; expected a number",
    ),
    "a negative seed": (lambda p: ["--seed", "-1"], "--seed is -1; expected a whole number, at least 0"),
    "no pictures": (lambda p: ["--num-images", "0"], "Invalid value for '--num-images'"),
    "one file for two of one prompt": (
        lambda p: [*ONE, "--num-images", "2", "--output", p / "x.png"],
        "one file for 2 pictures",
    ),
    "one file for four": (lambda p: ["--output", p / "x.png"], r"one file for 4 pictures; .* such as .*/x-\{\}\.png"),
    "another format": (lambda p: [*ONE, "--output", p / "x.jpg"], r"written as PNG; expected a name with \.png"),
}


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_usage_errors_are_reported_before_anything_starts(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, stderr = run_in_process(arguments(tmp_path), monkeypatch, capsys)
    assert code == UsageError.exit_code_of_cli
    assert not (tmp_path / "out").exists()
    assert_error_matches(message, stderr)


def run_in_process(arguments, monkeypatch, capsys):
    """Run the command line in this process; return its exit code and stderr."""
    monkeypatch.setattr(sys, "argv", ["main.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return ended.value.code, capsys.readouterr().err


def assert_error_matches(message, stderr):
    assert stderr.startswith("main.py: error: ")
    assert stderr.count("\n") == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(stderr)


@pytest.mark.usefixtures("nothing_starts")
def test_an_output_that_is_not_writable_is_reported_before_anything_starts(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    code, stderr = run_in_process(["--output", tmp_path / "file" / "folder"], monkeypatch, capsys)
    assert code == DiskError.exit_code_of_cli
    assert_error_matches("folder cannot be written to: ", stderr)


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(("module", "package"), main.NEEDED.items())
def test_a_missing_package_is_reported_with_the_command_to_install_it(tmp_path, monkeypatch, capsys, module, package):
    monkeypatch.setattr(main, "NEEDED", {"no_such_" + module: package})
    code, stderr = run_in_process([], monkeypatch, capsys)
    assert code == UsageError.exit_code_of_cli
    assert_error_matches(rf"needs {package}: pip install 'ascend-parallel\[sd\]'", stderr)


def test_a_model_that_cannot_be_built_is_a_one_line_error(tmp_path):
    models = filled(tmp_path, "unet/model.onnx")
    done = run("--models", models, *ONE, cwd=tmp_path)
    assert done.returncode == EngineError.exit_code_of_cli
    assert_error_matches("unet.*--debug shows the worker's traceback", done.stderr)
    debugged = run("--models", models, *ONE, "--debug", cwd=tmp_path)
    assert "Traceback" in debugged.stderr
    assert debugged.stderr.splitlines()[-1] == done.stderr.splitlines()[-1]


def test_help_names_every_option(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    for option in (
        "prompt",
        "num-images",
        "negative-prompt",
        "steps",
        "guidance-scale",
        "seed",
        "models",
        "devices",
        "engine",
    ):
        assert f"--{option} " in done.stdout
    assert CliRunner().invoke(main.app, ["--help"]).exit_code == 0


def test_ctrl_c_ends_everything(tmp_path):
    """While workers build or predict: 999 steps take seconds."""
    process = subprocess.Popen(
        [sys.executable, str(MAIN), "--steps", "999"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell disables it
    )
    workers = procs.wait_until(lambda: len(found := procs.children(process.pid)) == 2 and found, "two workers", 30)
    watch = procs.Watch(workers)
    process.send_signal(signal.SIGINT)
    with process:
        assert process.wait(20) == INTERRUPTED
        assert process.stderr.read() == ""
    watch.wait_gone(5)
