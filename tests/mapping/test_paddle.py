"""The real PaddleX and PaddleOCR, in their own Python, over two workers: what comes out is what they give alone."""

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

#: Each library alone, in one process: path -> what it says of it, a page each.
_OPEN = {
    "paddlex": "from paddlex import create_pipeline\n"
    "made = create_pipeline(pipeline='models/doc_preprocessor.yaml', device='cpu')\n",
    "paddleocr": "from paddleocr import DocImgOrientationClassification\n"
    f"made = DocImgOrientationClassification(device='cpu', **{OPTIONS})\n",
}
_PREDICT = """
import json, sys, tempfile
found = {}
for path in json.load(sys.stdin):
    for result in made.predict([path]):
        with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
            result.save_to_json(file.name)
            found.setdefault(path, []).append(json.load(file))
print("found:" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def python():
    """Return the Python that has PaddleX and PaddleOCR; without one, fail in CI and skip elsewhere."""
    found = os.environ.get("PADDLE_PYTHON")
    if not found:
        reason = "PADDLE_PYTHON does not name a Python with the real paddlex and paddleocr"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}, and CI is set: these tests must run there")
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a pipeline and its model, pictures in two folders, and a document of two pages."""
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
    """Return what computes with a library alone: (library, paths) -> path -> its results."""

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
        return json.loads(done.stdout.rpartition("found:")[2])

    return compute


def run_map(python, folder, *words, pipeline=PIPELINE, devices="cpu:0,1"):
    """Run the command line under this Python, and its workers under Paddle's."""
    return folders.command(pipeline, "--devices", devices, *words, "--worker-python", python, cwd=folder)


def inputs(folder):
    return sorted(str(path.relative_to(folder)) for path in (folder / "in").rglob("*.png"))


def test_a_pipeline_gives_what_it_gives_alone(python, folder, alone):
    words = ("--input-dir", "in", "--recursive", "--output-dir", "out", "--batch-size", 4)
    done = run_map(python, folder, *words)
    assert done.returncode == 0, folders.said(done)
    paths = inputs(folder)
    wanted = alone("paddlex", paths)
    assert len(wanted) == PICTURES
    assert len(Counter(results[0]["angle"] for results in wanted.values())) == len(models.ANGLES)  # no constant
    saved = {
        f"in/{path.relative_to(folder / 'out')}".removesuffix(".json"): [json.loads(path.read_text())]
        for path in (folder / "out").rglob("*.png.json")
    }
    assert saved == wanted
    lines = folders.manifest(folder / "out")
    assert lines.keys() == {path.removeprefix("in/") for path in paths}
    assert {line["status"] for line in lines.values()} == {"ok"}
    assert {line["device"] for line in lines.values()} == {"cpu:0", "cpu:1"}


def test_a_class_gives_what_it_gives_alone(python, folder, alone):
    options = [word for name, value in OPTIONS.items() for word in ("--option", f"{name}={value}")]
    words = ("--input-dir", "in", "--recursive", "--output-dir", "lines", "--output-format", "jsonl", *options)
    done = run_map(python, folder, *words, pipeline=CLASS)
    assert done.returncode == 0, folders.said(done)
    lines = [json.loads(text) for text in (folder / "lines/results.jsonl").read_text().splitlines()]
    assert len(lines) == PICTURES
    wanted = alone("paddleocr", inputs(folder))
    assert {f"in/{line['file']}": line["results"] for line in lines} == wanted
    assert {line["device"] for line in folders.manifest(folder / "lines").values()} == {"cpu:0", "cpu:1"}


def test_bad_pictures_and_pages(python, folder, alone):
    """In one batch: good ones, a file that is no picture, an empty one, one that is not there, and a document."""
    (folder / "text.png").write_text("no picture")
    (folder / "empty.jpg").touch()
    good = inputs(folder)[:3]
    bad = ["text.png", "empty.jpg", "missing.png"]
    names = [good[0], bad[0], good[1], bad[1], "two.pdf", bad[2], good[2]]
    (folder / "list.txt").write_text("\n".join(names) + "\n")
    words = ("--input-list", "list.txt", "--output-dir", "some", "--batch-size", len(names))
    done = run_map(python, folder, *words)
    assert done.returncode == 1
    assert "3 of 7 files failed:" in folders.said(done)
    lines = folders.manifest(folder / "some")
    assert sorted(name for name, line in lines.items() if line["status"] == "error") == sorted(bad)
    assert "text.png" in lines["text.png"]["reason"]
    assert "there is no file" in lines["missing.png"]["reason"]
    assert lines["two.pdf"]["outputs"] == ["two.pdf_0.json", "two.pdf_1.json"]
    wanted = alone("paddlex", [*good, "two.pdf"])
    for name in (*good, "two.pdf"):
        saved = [json.loads((folder / "some" / output).read_text()) for output in lines[name]["outputs"]]
        assert saved == wanted[name]
    assert [page["page_index"] for page in wanted["two.pdf"]] == [0, 1]


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ("npu:0", "`engine='onnxruntime'` currently only supports `cpu` and `gpu`"),
        ("gpu:0,1", "`CUDAExecutionProvider` is not available"),
    ],
)
def test_paddle_is_told_the_device(python, folder, devices, said):
    """There are no such devices here; what Paddle says of them shows that it was asked for them."""
    done = run_map(python, folder, "--input-dir", "in", "--output-dir", "none", devices=devices)
    assert done.returncode == 3
    assert said in folders.said(done)
    assert not (folder / "none").exists()


#: Opens a pipeline as a worker does, and counts the threads that are there after one picture.
_COUNT_THREADS = """
import importlib, os, sys
sys.path.insert(0, sys.argv[1])
opened = importlib.import_module("worker.pipelines.opening").open_pipeline(sys.argv[2], ("cpu", 0), eval(sys.argv[3]))
list(opened([sys.argv[4]]))
print("threads:%d" % len(os.listdir("/proc/self/task")))
"""


@pytest.mark.parametrize(("pipeline", "options"), [(PIPELINE, {}), (CLASS, OPTIONS)])
def test_a_worker_uses_its_share_of_the_cores(python, folder, pipeline, options):
    """The onnxruntime inside has as many threads as the worker is told to have, not one for each core."""
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
