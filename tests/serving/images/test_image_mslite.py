"""The folder that the owner of an Atlas 300I Duo has: MINDIR files of one row and one time step, by MindSpore Lite."""

import shutil

import httpx
import openai
import pytest
from convert_for_cpu import convert_folder
from models import mslite_python

from ascend_parallel.diffusion.model_folder import MODELS, find_models

from ..servers import serving
from .conftest import TINY
from .folders import write_single_timestep
from .pictures import metric, read_png

pytestmark = pytest.mark.mslite
PROMPT = "a red circle on white"
TOKENS = 77
#: The accepted difference between ONNX Runtime's and MindSpore Lite's pictures, in levels of 0..255. Measured: 2.
LEVELS = 3


def write_mindir(path, python):
    """Write the tiny model as MINDIR files of one row, as scripts/convert_models.sh does for Ascend devices."""
    source = find_models(write_single_timestep(path / "onnx"), "mslite")
    converted = convert_folder(source, dict.fromkeys(MODELS, 1), TOKENS, python)
    folder = path / "mindir"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.onnx"))
    for name, file in converted.files.items():
        shutil.copy(file, folder / name / "model.mindir")
    return folder


def test_the_pictures_are_those_of_onnx_runtime(tmp_path, monkeypatch, draw_by_example):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    python = mslite_python()
    folder = write_mindir(tmp_path, python)
    config = tmp_path / "config.yml"
    image = f"{{name: m, folder: {folder}, devices: 'cpu:0,1', worker_python: {python}, guidance_scale: 4}}"
    config.write_text(f"images: [{image}]\n")
    with serving(config) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            answer = client.images.generate(prompt=PROMPT, n=3, extra_body={"seed": 5})
        with httpx.Client(base_url=server.url) as http:
            rows = metric(http, "ascend_parallel_inference_count_total", model="m.unet")
            assert rows == metric(http, "ascend_parallel_inference_exec_count_total", model="m.unet") == 3 * 30 * 2
            busy = [metric(http, "ascend_parallel_worker_rows_total", worker=f"cpu:{i}") for i in (0, 1)]
        assert min(busy) > 0.3 * sum(busy)
    for picture in answer.data:
        assert abs(read_png(picture.b64_json) - draw_by_example(PROMPT, picture.seed)).max() <= LEVELS
