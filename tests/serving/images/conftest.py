"""One server with several image models for all tests, and what examples/sd21 draws by itself."""

import functools
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from openai import OpenAI

SD21 = Path(__file__).resolve().parents[3] / "examples" / "sd21"
TESTS = Path(__file__).resolve().parents[2]
for folder in (SD21, TESTS / "examples"):
    sys.path.append(str(folder))

from commands import TINY  # noqa: E402
from text_to_image import Request, TextToImage  # noqa: E402

from ascend_parallel import ParallelPredictUtils  # noqa: E402
from ascend_parallel.diffusion.model_folder import find_models  # noqa: E402
from ascend_parallel.diffusion.scheduler import DDIMScheduler  # noqa: E402
from ascend_parallel.diffusion.tokenizer import ClipTokenizer  # noqa: E402

from ..servers import serving  # noqa: E402
from .folders import write_fixed_batch, write_open_sizes, write_single_timestep  # noqa: E402

CONFIG = """
port: 0
allow_control: true
images:
  - {{name: tiny, folder: "{tiny}", devices: "cpu:0,1", engine_options: {{threads: 1}}, guidance_scale: 4,
      max_steps: 999}}
  - {{name: single, folder: "{single}", devices: "cpu:0,1", engine_options: {{threads: 1}}, guidance_scale: 4}}
  - {{name: open, folder: "{open}", devices: "cpu:0", engine_options: {{threads: 1}}, sizes: [128x64, 64x128]}}
  - {{name: fixed, folder: "{fixed}", devices: "cpu:0", engine_options: {{threads: 1}}}}
  - {{name: small, folder: "{tiny}", devices: "cpu:0", engine_options: {{threads: 1}}, max_pictures: 2,
      max_queue_size: 2, timeout_s: 1.5, max_steps: 999}}
"""


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    config = folder / "config.yml"
    folders = {
        "single": write_single_timestep(folder / "single"),
        "open": write_open_sizes(folder / "open"),
        "fixed": write_fixed_batch(folder / "fixed"),
    }
    config.write_text(CONFIG.format(tiny=TINY, **folders))
    with serving(config) as server:
        yield server


@pytest.fixture(scope="package")
def client(server):
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="package")
def http(server):
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield http


@pytest.fixture(scope="package")
def draw_by_example():
    """A function that returns the picture that examples/sd21/main.py draws with the tiny model on two workers."""
    folder = find_models(TINY, "onnxruntime")
    with ParallelPredictUtils(folder.files, devices="cpu:0,1", engine_options={"threads": 1}) as runner:

        @functools.cache
        def draw(prompt, seed, *, steps=30, guidance=4.0, negative=""):
            scheduler = DDIMScheduler.from_config(TINY / "scheduler" / "scheduler_config.json")
            scheduler.set_timesteps(steps)
            pipeline = TextToImage(runner, folder, ClipTokenizer.from_folder(TINY / "tokenizer"), scheduler)
            return pipeline.draw(Request([prompt], negative, guidance, seed))[0].astype(np.int16)

        yield draw
