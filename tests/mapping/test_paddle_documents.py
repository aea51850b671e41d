"""Whole pipelines of the real PaddleX over two workers: OCR, doc_preprocessor, PP-StructureV3; pictures and a PDF."""

import json
import os
import re
import subprocess
from pathlib import Path

import models
import numpy as np
import pytest
from PIL import Image

import ascend_parallel

from . import folders, paddle_documents, paddle_models

pytestmark = [pytest.mark.paddle, pytest.mark.timeout(300)]  # a pipeline starts in seconds, a dozen of them do not

HOUSE = str(Path(ascend_parallel.__file__).parent)
PICTURES, PAGES = 2, 2

#: Saves the results of some files in the folder of each file and page, with a pipeline in this process alone.
_ALONE = """
import json, os, sys
from paddlex import create_pipeline
config, out, *paths = sys.argv[1:]
pipeline = create_pipeline(pipeline=config, device="cpu")
joined = {}
for path in paths:
    pages = list(pipeline.predict([path]))
    for page in pages:
        number = page["page_index"]
        folder = os.path.join(out, os.path.basename(path), "" if number is None else "page_%d" % number)
        os.makedirs(folder)
        for method in ("save_to_json", "save_to_img", "save_to_markdown", "save_to_html", "save_to_xlsx"):
            if hasattr(page, method):
                getattr(page, method)(folder)
    if hasattr(pipeline, "concatenate_markdown_pages"):
        text = pipeline.concatenate_markdown_pages([page.markdown for page in pages])
        joined[os.path.basename(path)] = text["markdown_texts"]
print("joined:" + json.dumps(joined))
"""


@pytest.fixture(scope="module")
def python():
    return models.vendor_python("PADDLE_PYTHON", "paddlex[ocr]")


@pytest.fixture(scope="module")
def root(tmp_path_factory, python):
    """Return a folder with models, pictures, and a PDF; PaddleX takes a font from there and downloads none."""
    root = tmp_path_factory.mktemp("documents")
    paddle_documents.write_documents(root / "in", pictures=PICTURES, pages=PAGES)
    code = "import cv2, os; print(os.path.join(os.path.dirname(cv2.__file__), 'qt/fonts/DejaVuSans.ttf'))"
    font = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    assert Path(font).is_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PADDLE_PDX_LOCAL_FONT_FILE_PATH", font)
        yield root


@pytest.fixture(scope="module")
def ocr(root):
    return paddle_documents.write_ocr(root / "models")


@pytest.fixture(scope="module")
def structure(root):
    return paddle_documents.write_structure(root / "models")


def run_alone(python, root, config):
    """Return the folder with what the pipeline alone saves, and the joined texts by file."""
    out = root / f"alone-{config.stem}"
    paths = sorted(str(path.relative_to(root)) for path in (root / "in").iterdir())
    done = subprocess.run(
        [python, "-c", _ALONE, str(config), str(out), *paths], cwd=root, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout.rpartition("joined:")[2])


def run_map(python, root, config, out, *words):
    words = ["--input-dir", "in", "--output-dir", out, "--devices", "cpu:0,1", "--worker-python", python, *words]
    return folders.command(f"paddlex:{config}", *words, cwd=root)


def contents(path):
    """Return what is to be equal in two runs: .xlsx files contain the time."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path)).tobytes()
    return None if path.suffix == ".xlsx" else path.read_bytes()


def assert_the_same_files(found, wanted):
    names = folders.outputs(wanted)
    assert folders.outputs(found) == names
    assert len(names) >= 2 * (PICTURES + PAGES)
    for name in names:
        assert contents(found / name) == contents(wanted / name), name


def test_ocr(python, root, ocr):
    wanted, _ = run_alone(python, root, ocr)
    done = run_map(python, root, ocr, "ocr", "--save", "json,img,xlsx", "--batch-size", 2)
    assert done.returncode == 0, folders.stderr_of(done)
    assert_the_same_files(root / "ocr", wanted)
    page = json.loads((root / "ocr/doc.pdf/page_1/doc_1_res.json").read_text())
    assert page["page_index"] == 1
    assert len(page["rec_texts"]) > 3, "the models find something"
    notes = re.findall("note: .*", folders.stderr_of(done))
    assert notes == ["note: results of type OCRResult have no xlsx: none is saved"]


def test_options_of_predict(python, root, ocr):
    done = run_map(python, root, ocr, "options", "--predict-option", "text_rec_score_thresh=0.999")
    assert done.returncode == 0, folders.stderr_of(done)
    assert json.loads((root / "options/p0.png.json").read_text())["rec_texts"] == []


@pytest.mark.parametrize("library", ["paddlex", "paddleocr"])
def test_an_unknown_option_of_predict_is_an_error(python, root, ocr, library):
    words = ["--input-dir", "in", "--output-dir", "none", "--devices", "cpu:0", "--worker-python", python]
    pipeline = f"paddlex:{ocr}"
    if library == "paddleocr":
        pipeline, options = "paddleocr:PaddleOCR", paddle_documents.ocr_options(ocr.parent)
        words += [word for name, value in options.items() for word in ("--option", f"{name}={value}")]
    done = folders.command(pipeline, *words, "--predict-option", "text_rec_score_tresh=0.5", cwd=root)
    assert done.returncode == 3
    assert "no option 'text_rec_score_tresh'; did you mean text_rec_score_thresh?" in folders.stderr_of(done)
    assert not (root / "none").exists()


def test_doc_preprocessor(python, root):
    config = paddle_models.write_pipeline(root / "preprocessor")
    wanted, _ = run_alone(python, root, config)
    done = run_map(python, root, config, "preprocessed", "--save", "img,json")
    assert done.returncode == 0, folders.stderr_of(done)
    assert_the_same_files(root / "preprocessed", wanted)


def test_structure(python, root, structure):
    """Every format, and the pages joined; with Paddle's own names, pictures of two pages would have the same name."""
    wanted, joined = run_alone(python, root, structure)
    done = run_map(python, root, structure, "structure", "--save", "json,img,markdown,html,xlsx")
    assert done.returncode == 0, folders.stderr_of(done)
    assert_the_same_files(root / "structure", wanted)
    assert {Path(name).suffix for name in folders.outputs(root / "structure")} == {
        *(".json", ".png", ".jpg", ".md", ".html", ".xlsx")
    }
    first, second = (next((root / f"structure/doc.pdf/page_{n}/imgs").glob("img_in_image*")) for n in (0, 1))
    assert first.name == second.name
    assert first.read_bytes() != second.read_bytes()

    done = run_map(python, root, structure, "joined", "--save", "markdown", "--pages", "joined")
    assert done.returncode == 0, folders.stderr_of(done)
    for name, text in joined.items():
        (path,) = (root / "joined" / name).glob("*.md")
        found = path.read_text()
        assert re.sub(r"imgs/page_\d_", "imgs/", found).strip() == text.strip()
        links = re.findall(r'src="(imgs/[^"]*)"', found)
        assert len(set(links)) == len(links) == (PAGES if name.endswith(".pdf") else 1)
        for link in links:
            assert (path.parent / link).is_file()


def test_all_formats_but_those_whose_packages_are_missing(python, root, structure):
    done = run_map(python, root, structure, "all", "--save", "all", "--input-glob-pattern", "p0.png")
    assert done.returncode == 0, folders.stderr_of(done)
    assert (root / "all/p0.png/p0.tex").is_file()
    notes = re.findall("note: .*", folders.stderr_of(done))
    assert notes == ["note: word is not saved: ModuleNotFoundError: No module named 'docx'"]


def test_pages_that_a_pipeline_does_not_offer(python, root, structure, ocr):
    words = "has no method restructure_pages: it offers pages separate and joined"
    assert words in folders.stderr_of(run_map(python, root, structure, "none", "--pages", "restructured"))
    words = "has no method that restructures or joins pages: it offers pages separate only"
    assert words in folders.stderr_of(run_map(python, root, ocr, "none", "--pages", "joined"))


#: PaddleOCR-VL's model is too large for a test: its own method gets results that are made here.
_RESTRUCTURE = """
import importlib, json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from paddlex.inference.pipelines.paddleocr_vl import pipeline, result

class Pages:
    restructure_pages = pipeline._PaddleOCRVLPipeline.restructure_pages

    def predict(self, paths):
        settings = {"use_doc_preprocessor": False, "use_layout_detection": False}
        for path in paths:
            for page in range(2):
                title = result.PaddleOCRVLBlock("paragraph_title", [0, 0, 90, 10], content="%d. Title" % page)
                text = result.PaddleOCRVLBlock("text", [0, 20, 90, 40], content="text %d" % page)
                yield result.PaddleOCRVLResult({
                    "input_path": path, "page_index": page, "page_count": 2, "width": 100, "height": 100,
                    "imgs_in_doc": [], "parsing_res_list": [title, text], "model_settings": settings,
                    "input_img": np.zeros((100, 100, 3), np.uint8)})

arrange = importlib.import_module("worker.pipelines.pages").arrange_pages
found = {}
for how in ("restructured", "joined"):
    results = arrange(Pages(), Pages().predict, how, "x")(["a.pdf", "b.pdf"])
    found[how] = [[each["input_path"], each["page_index"], each.markdown["markdown_texts"]] for each in results]
print("found:" + json.dumps(found))
"""


def test_the_real_restructure_pages(python, root):
    environ = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [python, "-c", _RESTRUCTURE, HOUSE], cwd=root, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    texts = [f"## {page}. Title\n\ntext {page}" for page in range(2)]
    assert json.loads(done.stdout.rpartition("found:")[2]) == {
        "restructured": [[path, page, texts[page]] for path in ("a.pdf", "b.pdf") for page in range(2)],
        "joined": [[path, None, "\n\n".join(texts)] for path in ("a.pdf", "b.pdf")],
    }
