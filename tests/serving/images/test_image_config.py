"""The section ``images`` of a configuration: what is right is read, what is wrong has its line."""

import json
import shutil

import jsonschema
import pytest

from ascend_parallel.serving.config_checks import make_schema
from ascend_parallel.serving.config_file import read_config
from ascend_parallel.serving.image_config import ImageConfig

from ..config_text import problems_of, reader
from .conftest import SD21, TINY

FULL = f"""\
images:
  - folder: {TINY}
    name: sd
    devices: cpu:0,1
    engine: onnxruntime
    engine_options: {{threads: 1}}
    steps: 20
    max_steps: 50
    guidance_scale: 5
    sizes: [128x64]
    max_pictures: 4
    max_batch_size: 4
    max_queue_size: 20
    timeout_s: 60
    predict_timeout_s: 10
    build_timeout_s: 100
    max_restarts: 5
"""


@pytest.fixture
def read(tmp_path):
    """A function that writes a configuration and reads it."""
    return reader(tmp_path)


def problem_of(read, text):
    """Return the one thing that is wrong with a configuration, as LINE:COLUMN: MESSAGE."""
    ((line, column, message),) = problems_of(read, text)
    return f"{line}:{column}: {message}"


def test_everything_that_a_file_says_is_read(read):
    config = read(FULL)
    assert config.models == []
    (image,) = config.images
    assert image.model_dump(exclude={"worker_python"}) == {
        "folder": str(TINY),
        "name": "sd",
        "devices": "cpu:0,1",
        "engine": "onnxruntime",
        "engine_options": {"threads": 1},
        "steps": 20,
        "max_steps": 50,
        "guidance_scale": 5.0,
        "sizes": ["128x64"],
        "max_pictures": 4,
        "max_batch_size": 4,
        "max_queue_size": 20,
        "timeout_s": 60.0,
        "predict_timeout_s": 10.0,
        "build_timeout_s": 100.0,
        "max_restarts": 5,
    }


def test_the_example_is_right_and_its_folder_is_found_from_the_file():
    (image,) = read_config(SD21 / "serve.yml").images
    assert (image.name, image.folder, image.devices) == ("sd21-tiny", str(SD21 / "tiny"), "cpu:0,1")


def test_the_default_name_is_that_of_the_folder(read, tmp_path):
    shutil.copytree(TINY, tmp_path / "models" / "v2")
    (image,) = read("images: [{folder: models/v2}]").images
    assert image.name == "v2"
    assert image == ImageConfig(folder=str(tmp_path / "models" / "v2"), name="v2")


def test_the_schema_has_the_section():
    schema = make_schema()
    jsonschema.validate({"images": [{"folder": "x"}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"images": [{"foldr": "x"}]}, schema)
    described = schema["$defs"]["ImageConfig"]["properties"]
    assert all(entry["description"] for entry in described.values())
    json.dumps(schema)


WRONG = {
    "nothing": ("port: 1\n", "1:1: the configuration has neither models nor pipelines nor images; "),
    "empty": ("images: []\n", "1:9: images is an empty list; expected a list that is not empty"),
    "no folder": (
        "images:\n  - name: sd\n",
        "2:5: images[0] has no folder; expected a folder with text_encoder, unet and vae_decoder",
    ),
    "unknown key": (
        f"images:\n  - folder: {TINY}\n    step: 3\n",
        "3:5: images[0] has the unknown key 'step'; did you mean 'steps'?",
    ),
    "steps text": (
        f"images:\n  - folder: {TINY}\n    steps: many\n",
        "3:12: images[0].steps is 'many'; expected a whole number, at least 1",
    ),
    "steps over max": (
        f"images:\n  - folder: {TINY}\n    steps: 200\n",
        "3:12: images[0].steps is 200; expected at most max_steps, which is 100",
    ),
    "more steps than the sampler has": (
        f"images:\n  - folder: {TINY}\n    max_steps: 1001\n",
        f"3:16: images[0].max_steps is 1001, which the sampler of {TINY} does not do: steps must be 1 to 1000",
    ),
    "no such folder": (
        "images:\n  - folder: absent\n",
        "2:13: images[0].folder: ",
    ),
    "engine": (
        f"images:\n  - folder: {TINY}\n    engine: torch\n",
        "3:13: images[0].engine is 'torch'; expected mslite or onnxruntime or null",
    ),
    "engine that takes no ONNX": (
        f"images:\n  - folder: {TINY}\n    engine: mslite\n",
        "2:13: images[0].folder: ",
    ),
    "option of the engine": (
        f"images:\n  - folder: {TINY}\n    devices: cpu:0\n    engine_options: {{thread: 1}}\n",
        "4:30: images[0].engine_options.thread: the engine onnxruntime has no option 'thread'",
    ),
    "devices": (
        f"images:\n  - folder: {TINY}\n    devices: cpu:x\n",
        "3:14: images[0].devices: ",
    ),
    "size": (
        f"images:\n  - folder: {TINY}\n    sizes: [64x64, 100x100]\n",
        "3:20: images[0].sizes[1]: '100x100' is no size; expected WIDTHxHEIGHT such as 768x512, multiples of 64",
    ),
    "fewer places than pictures": (
        f"images:\n  - folder: {TINY}\n    max_pictures: 5\n    max_queue_size: 3\n",
        "3:19: images[0].max_pictures is 5; expected at most max_queue_size, which is 3",
    ),
    "two of one name": (
        f"images:\n  - folder: {TINY}\n  - folder: {TINY}\n",
        "3:5: images[1] has the name 'tiny', and images[0] has 'tiny'; expected another name",
    ),
    "a model of the same name": (
        f"images:\n  - folder: {TINY}\nmodels:\n  - path: {TINY}/unet/model.onnx\n    name: tiny.unet\n",
        "2:5: images[0] has the name 'tiny', and models[0] has 'tiny.unet'; expected another name",
    ),
}


@pytest.mark.parametrize(("text", "problem"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_has_its_line(read, text, problem):
    found = problem_of(read, text)
    assert found.startswith(problem)


def test_what_is_wrong_in_the_folder_is_told(read, tmp_path):
    folder = tmp_path / "models"
    shutil.copytree(TINY, folder)
    (folder / "tokenizer" / "vocab.json").write_text("{")
    found = problem_of(read, "images: [{folder: models}]")
    assert found.startswith("1:19: images[0].folder: ") and "vocab.json" in found
    (folder / "unet" / "model.onnx").unlink()
    found = problem_of(read, "images: [{folder: models}]")
    assert "has no unet/model.onnx" in found
