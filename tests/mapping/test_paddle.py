"""The real PaddleX and PaddleOCR, in their own Python, over two workers, compared with a run without map."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

import ascend_parallel

from . import folders
from . import paddle_models as models

pytestmark = pytest.mark.paddle

HOUSE = str(Path(ascend_parallel.__file__).parent)
PICTURES = 200
MODEL = f"models/{models.ORIENTATION}"
PIPELINE = "paddlex:models/doc_preprocessor.yaml"
CLASS = "paddleocr:DocImgOrientationClassification"
OPTIONS = {"model_name": models.ORIENTATION, "model_dir": MODEL, "engine": "onnxruntime"}

#: Code that opens a library's pipeline in a single process.
_OPEN = {
    "paddlex": "from paddlex import create_pipeline\n"
    "pipeline = create_pipeline(pipeline='models/doc_preprocessor.yaml', device='cpu')\n",
    "paddleocr": "from paddleocr import DocImgOrientationClassification\n"
    f"pipeline = DocImgOrientationClassification(device='cpu', **{OPTIONS})\n",
}
_PREDICT = """
import json, sys, tempfile
results = {}
for path in json.load(sys.stdin):
    for result in pipeline.predict([path]):
        with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
            result.save_to_json(file.name)
            results.setdefault(path, []).append(json.load(file))
print("results:" + json.dumps(results))
"""


@pytest.fixture(scope="module")
def python():
    """Return the Python that has PaddleX and PaddleOCR; if there is none, fail in CI and skip elsewhere."""
    path = os.environ.get("PADDLE_PYTHON")
    if not path:
        reason = "PADDLE_PYTHON does not name a Python with the real paddlex and paddleocr"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}, and CI is set: these tests must run there")
        pytest.skip(reason)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a pipeline and its model, pictures in two folders, and a document with two pages."""
    root = tmp_path_factory.mktemp("paddle")
    models.write_pipeline(root / "models", model_dir=MODEL)
    paths = models.write_pictures(root / "in", PICTURES)
    (root / "in/sub").mkdir()
    for path in paths[1::2]:
        path.rename(root / "in/sub" / path.name)
    first, second = (Image.open(path) for path in (paths[0], root / "in/sub" / paths[1].name))
    first.save(root / "two.pdf", save_all=True, append_images=[second])
    return root


@pytest.fixture(scope="module")
def alone(python, folder):
    """Return a function that computes with a library alone: (library, paths) -> path -> results."""

    def compute(library, paths):
        done = subprocess.run(
            [python, "-c", _OPEN[library] + _PREDICT],
            input=json.dumps(paths),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.rpartition("results:")[2])

    return compute


def run_map(python, folder, *words, pipeline=PIPELINE, devices="cpu:0,1"):
    """Run the command line under this Python, and its workers under Paddle's Python."""
    return folders.command(pipeline, "--devices", devices, *words, "--worker-python", python, cwd=folder)


def inputs(folder):
    return sorted(str(path.relative_to(folder)) for path in (folder / "in").rglob("*.png"))


def test_a_pipeline_returns_the_same_results_as_alone(python, folder, alone):
    words = ("--input-dir", "in", "--recursive", "--output-dir", "out", "--batch-size", 4)
    done = run_map(python, folder, *words)
    assert done.returncode == 0, folders.stderr_of(done)
    paths = inputs(folder)
    expected = alone("paddlex", paths)
    assert len(expected) == PICTURES
    assert len(Counter(results[0]["angle"] for results in expected.values())) == len(models.ANGLES)  # no constant
    saved = {
        f"in/{path.relative_to(folder / 'out')}".removesuffix(".json"): [json.loads(path.read_text())]
        for path in (folder / "out").rglob("*.png.json")
    }
    assert saved == expected
    lines = folders.manifest(folder / "out")
    assert lines.keys() == {path.removeprefix("in/") for path in paths}
    assert {line["status"] for line in lines.values()} == {"ok"}
    assert {line["device"] for line in lines.values()} == {"cpu:0", "cpu:1"}


def test_a_class_returns_the_same_results_as_alone(python, folder, alone):
    options = [word for name, value in OPTIONS.items() for word in ("--option", f"{name}={value}")]
    words = ("--input-dir", "in", "--recursive", "--output-dir", "lines", "--output-format", "jsonl", *options)
    done = run_map(python, folder, *words, pipeline=CLASS)
    assert done.returncode == 0, folders.stderr_of(done)
    lines = [json.loads(text) for text in (folder / "lines/results.jsonl").read_text().splitlines()]
    assert len(lines) == PICTURES
    expected = alone("paddleocr", inputs(folder))
    assert {f"in/{line['file']}": line["results"] for line in lines} == expected
    assert {line["device"] for line in folders.manifest(folder / "lines").values()} == {"cpu:0", "cpu:1"}


def test_bad_pictures_and_pages(python, folder, alone):
    """In one batch: good pictures, a file that is not a picture, an empty file, a missing file, and a document."""
    (folder / "text.png").write_text("no picture")
    (folder / "empty.jpg").touch()
    good = inputs(folder)[:3]
    bad = ["text.png", "empty.jpg", "missing.png"]
    names = [good[0], bad[0], good[1], bad[1], "two.pdf", bad[2], good[2]]
    (folder / "list.txt").write_text("\n".join(names) + "\n")
    words = ("--input-list", "list.txt", "--output-dir", "some", "--batch-size", len(names))
    done = run_map(python, folder, *words)
    assert done.returncode == 1
    assert "3 of 7 files failed:" in folders.stderr_of(done)
    lines = folders.manifest(folder / "some")
    assert sorted(name for name, line in lines.items() if line["status"] == "error") == sorted(bad)
    assert "text.png" in lines["text.png"]["reason"]
    assert "there is no file" in lines["missing.png"]["reason"]
    assert lines["two.pdf"]["outputs"] == ["two.pdf_0.json", "two.pdf_1.json"]
    expected = alone("paddlex", [*good, "two.pdf"])
    for name in (*good, "two.pdf"):
        saved = [json.loads((folder / "some" / output).read_text()) for output in lines[name]["outputs"]]
        assert saved == expected[name]
    assert [page["page_index"] for page in expected["two.pdf"]] == [0, 1]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("npu:0", "`engine='onnxruntime'` currently only supports `cpu` and `gpu`"),
        ("gpu:0,1", "`CUDAExecutionProvider` is not available"),
    ],
)
def test_paddle_gets_the_device(python, folder, devices, message):
    """This machine has no such devices; Paddle's error message shows that it got them."""
    done = run_map(python, folder, "--input-dir", "in", "--output-dir", "none", devices=devices)
    assert done.returncode == 3
    assert message in folders.stderr_of(done)
    assert not (folder / "none").exists()


#: Opens a pipeline as a worker does, and prints the number of threads after one picture.
_COUNT_THREADS = """
import importlib, os, sys
sys.path.insert(0, sys.argv[1])
opened = importlib.import_module("worker.pipelines.opening").open_pipeline(sys.argv[2], ("cpu", 0), eval(sys.argv[3]))
list(opened([sys.argv[4]]))
print("threads:%d" % len(os.listdir("/proc/self/task")))
"""


@pytest.mark.parametrize(("pipeline", "options"), [(PIPELINE, {}), (CLASS, OPTIONS)])
def test_a_worker_uses_its_share_of_the_cores(python, folder, pipeline, options):
    """The onnxruntime session in the pipeline has the worker's number of threads, not one per core."""
    counts = {}
    for threads in (1, 4):
        done = subprocess.run(
            [python, "-c", _COUNT_THREADS, HOUSE, pipeline, repr(options), inputs(folder)[0]],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PADDLE_PDX_CPU_NUM_THREADS": str(threads)},
        )
        assert done.returncode == 0, done.stderr
        counts[threads] = int(done.stdout.rpartition("threads:")[2])
    assert counts[4] == counts[1] + 3
