"""The example of a pipeline: it reads what was drawn, exactly; through the server, over a folder, and in a program."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import yaml
from serving.servers import serving

from ascend_parallel import Pipeline, RefusedError

EXAMPLE = Path(__file__).parents[2] / "examples" / "ocr_pipeline"


def run(script, *arguments):
    """Run a script of the example; return what it prints."""
    command = [sys.executable, str(EXAMPLE / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


@pytest.fixture(scope="module")
def pages():
    """Pages, and the texts on each."""
    code = (
        "import sys, pickle, numpy as np; from pages import draw_page; rng = np.random.default_rng(11)\n"
        "made = [draw_page(rng, number % 8) for number in range(160)]\n"
        "pickle.dump([(page, [tuple(text) for text in texts]) for page, texts in made], sys.stdout.buffer)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=EXAMPLE, capture_output=True, check=True, timeout=60)
    return __import__("pickle").loads(done.stdout)


def read_all(pipeline, pages):
    """Check that each page is read exactly: all texts with their boxes, and nothing else."""
    for (_, texts), answer in zip(pages, pipeline.map({"data": page} for page, _ in pages), strict=True):
        expected = sorted((digits, *box) for digits, box, _ in texts)
        assert sorted(zip(answer["texts"], *answer["boxes"].T.tolist(), strict=True)) == expected


def png_of(page):
    buffer = io.BytesIO()
    PIL.Image.fromarray(page).save(buffer, "png")
    return buffer.getvalue()


def test_every_digit_is_read(pages):
    assert sum(not texts for _, texts in pages) > 15, "pages without text"
    assert {digit for _, texts in pages for text in texts for digit in text[0]} == set("0123456789")
    with Pipeline.from_yaml(EXAMPLE / "config.yml") as pipeline:
        read_all(pipeline, pages)
        page, texts = pages[7]
        assert sorted(pipeline.predict({"data": png_of(page)})["texts"]) == sorted(text[0] for text in texts)
        for wrong in (b"no picture", np.zeros((3, 4), np.float32), "text"):
            with pytest.raises(RefusedError) as refused:
                pipeline.predict({"data": wrong})
            assert refused.value.code == 51


def test_the_models_can_be_made_anew(pages, tmp_path):
    assert "wrote" in run("make_models.py", tmp_path / "models")
    settings = yaml.safe_load((EXAMPLE / "config.yml").read_text())
    for op in settings["pipelines"][0]["ops"]:
        op["python"] = str(EXAMPLE / op["python"])
    (tmp_path / "config.yml").write_text(yaml.safe_dump(settings))
    with Pipeline.from_yaml(tmp_path / "config.yml") as pipeline:
        read_all(pipeline, pages)


def test_the_client_prints_the_texts(tmp_path):
    drawn = run("draw_page.py", tmp_path / "page.png", 1).split()
    assert (tmp_path / "page.png").read_bytes() == (EXAMPLE / "page.png").read_bytes()
    with serving(EXAMPLE / "config.yml") as server:
        printed = run("client.py", EXAMPLE / "page.png", f"127.0.0.1:{server.port}")
        assert sorted(line.split()[0] for line in printed.splitlines()) == sorted(drawn)
        assert f"page.png\n{printed}```\n" in (EXAMPLE / "README.md").read_text()


def test_a_folder_of_pictures(pages, tmp_path):
    (tmp_path / "pages").mkdir()
    for number, (page, _) in enumerate(pages[:10]):
        (tmp_path / "pages" / f"{number}.png").write_bytes(png_of(page))
    command = ["map", f"pipeline:{EXAMPLE}/config.yml", "--input-dir", "pages", "--output-dir", "out"]
    subprocess.run([sys.executable, "-m", "ascend_parallel", *command], cwd=tmp_path, check=True, timeout=60)
    for number, (_, texts) in enumerate(pages[:10]):
        read = json.loads((tmp_path / "out" / f"{number}.png.json").read_text())
        assert sorted(read["texts"]) == sorted(text[0] for text in texts)
