"""The loop of the example: the same pictures on one device and two, sizes from the models, guidance, seeds."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import TINY
from onnx import TensorProto
from standins import ENLARGED, make_folder
from text_to_image import Request, TextToImage

from ascend_parallel import AscendParallelError, ParallelPredictUtils, UsageError
from ascend_parallel.diffusion.model_folder import find_models
from ascend_parallel.diffusion.scheduler import DDIMScheduler
from ascend_parallel.diffusion.stable_diffusion import guide, to_bytes
from ascend_parallel.diffusion.tokenizer import ClipTokenizer

TOKENIZER = TINY / "tokenizer"
PROMPTS = ["a red circle on white", "a blue square on pink", "a yellow cross on gray"]
STEPS = 6
#: The accepted difference, in levels of 0..255. ONNX Runtime sums in another order for another number of rows, so a
#: value between two levels may be rounded differently.
LEVELS = 1


def draw(path, devices="cpu:0", *, prompts=PROMPTS, negative="", scale=4.0, seed=0, steps=STEPS):
    """Return the pictures, (N, height, width, 3), as int16 for subtraction."""
    folder = find_models(path, "onnxruntime")
    scheduler = DDIMScheduler.from_config(path / "scheduler" / "scheduler_config.json")
    scheduler.set_timesteps(steps)
    with ParallelPredictUtils(folder.files, devices=devices) as runner:
        pipeline = TextToImage(runner, folder, ClipTokenizer.from_folder(path / "tokenizer"), scheduler)
        return pipeline.draw(Request(list(prompts), negative, scale, seed)).astype(np.int16)


def difference(these, those):
    assert these.shape == those.shape
    return int(abs(these - those).max())


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_two_devices_draw_the_same_as_one(count, scale):
    one = draw(TINY, "cpu:0", prompts=PROMPTS[:count], scale=scale)
    two = draw(TINY, "cpu:0,1", prompts=PROMPTS[:count], scale=scale)
    assert difference(one, two) <= LEVELS


def test_the_pictures_are_those_of_a_plain_loop():
    """``check_tiny.py`` has its own loop, on ONNX Runtime alone."""
    from check_tiny import OnnxPipeline

    noise = np.stack([np.random.default_rng(7 + i).standard_normal((4, 8, 8), np.float32) for i in range(3)])
    plain = to_bytes(OnnxPipeline(TINY)(PROMPTS, noise, STEPS, 4.0)).astype(np.int16)
    assert difference(draw(TINY, "cpu:0,1", seed=7), plain) <= LEVELS


def test_each_picture_has_its_own_seed():
    together = draw(TINY, seed=5, prompts=[PROMPTS[0], PROMPTS[0]])
    alone = draw(TINY, seed=6, prompts=[PROMPTS[0]])
    assert difference(together[1:], alone) <= LEVELS
    assert difference(together[:1], alone) > 10 * LEVELS


def test_each_text_is_encoded_once():
    folder = find_models(TINY, "onnxruntime")
    scheduler = DDIMScheduler.from_config(TINY / "scheduler" / "scheduler_config.json")
    scheduler.set_timesteps(1)
    with ParallelPredictUtils(folder.files, devices="cpu:0") as runner:
        pipeline = TextToImage(runner, folder, ClipTokenizer.from_folder(TOKENIZER), scheduler)
        once = pipeline.encode(["", PROMPTS[1], PROMPTS[0]])
        before = runner.stats()["workers"]["cpu:0"]["rows"]
        again = pipeline.encode(["", "", PROMPTS[0], PROMPTS[1], PROMPTS[0]])
        assert runner.stats()["workers"]["cpu:0"]["rows"] - before == 3
    np.testing.assert_allclose(again, once[[0, 0, 2, 1, 2]], atol=1e-5)


def test_without_guidance_the_negative_prompt_has_no_effect():
    assert Request(PROMPTS, "gray", 1.0, 0).texts == PROMPTS
    assert Request(PROMPTS, "gray", 1.1, 0).texts == ["gray"] * 3 + PROMPTS
    plain = draw(TINY, scale=1.0)
    np.testing.assert_array_equal(draw(TINY, scale=0.0, negative="a gray ring"), plain)
    # A scale slightly above one predicts both halves, with the same result.
    assert difference(draw(TINY, scale=1 + 1e-6), plain) <= LEVELS


def test_with_guidance_the_negative_prompt_has_an_effect():
    assert difference(draw(TINY, negative="a gray ring"), draw(TINY)) > 10 * LEVELS


def test_guidance_leads_away_from_the_first_half():
    predicted = np.array([[1.0], [2.0], [3.0], [6.0]], np.float32)
    np.testing.assert_array_equal(guide(predicted, 2, 3.0), [[7.0], [14.0]])
    np.testing.assert_array_equal(guide(predicted, 4, 3.0), predicted)


@functools.cache
def draw_plain(tokens, scale):
    """The pictures of a stand-in that accepts any batch, on one device."""
    with tempfile.TemporaryDirectory() as folder:
        return draw(make_folder(Path(folder) / "plain", TOKENIZER, tokens=tokens), scale=scale)


EXPORTS = {  # what is special about the export -> arguments of make_folder
    "any batch": {},
    "batch 1": {"batch": 1},
    "batch 2": {"batch": 2},
    "batch 4, padded": {"batch": 4},
    "0-d float time step": {"timestep": TensorProto.FLOAT, "timestep_shape": ()},
    "0-d int64 time step": {"timestep_shape": (), "batch": 1},
    "open time step": {"timestep_shape": ("steps",)},
    "time step per row": {"timestep_shape": ("batch",)},
    "time step per fixed row": {"timestep_shape": (2,), "batch": 2},
    "int32": {"ids": TensorProto.INT32, "timestep": TensorProto.INT32},
    "other names": {"names": ("ids", "x", "t", "context", "z")},
    "13 tokens": {"tokens": 13},
    "all open, as optimum's": {
        "latent": ("channels", "height", "width"),
        "tokens": "length",
        "width": "d_model",
        "batch": "batch_size",
        "timestep_shape": ("steps",),
        "settings": {"unet": {"in_channels": 4, "sample_size": [6, 10], "cross_attention_dim": 5}},
    },
}


@pytest.mark.parametrize("scale", [4.0, 1.0])
@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_sizes_and_dtypes_come_from_the_models(tmp_path, export, scale):
    path = make_folder(tmp_path / "models", TOKENIZER, **export)
    pictures = draw(path, "cpu:0,1", scale=scale, prompts=PROMPTS)
    assert pictures.shape == (3, 6 * ENLARGED, 10 * ENLARGED, 3)
    length = export["tokens"] if isinstance(export.get("tokens"), int) else 77
    assert difference(pictures, draw_plain(length, scale)) <= LEVELS
    assert difference(pictures[:1], pictures[1:2]) > 10 * LEVELS  # no row is lost or repeated


def test_the_folder_s_scaling_factor_is_used(tmp_path):
    plain = make_folder(tmp_path / "plain", TOKENIZER)
    same = make_folder(tmp_path / "same", TOKENIZER, settings={"vae_decoder": {"scaling_factor": 0.18215}})
    other = make_folder(tmp_path / "other", TOKENIZER, settings={"vae": {"scaling_factor": 0.5}})
    np.testing.assert_array_equal(draw(plain), draw(same))
    assert difference(draw(plain), draw(other)) > 10 * LEVELS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent": (4, "height", "width")}, "does not fix the open sizes; expected in_channels and sample_size"),
        ({"timestep_shape": (1, 1)}, r"unet takes sample\[.*\], timestep\[1, 1\].*another kind of model"),
    ],
)
def test_models_of_another_kind_are_refused(tmp_path, changes, message):
    path = make_folder(tmp_path / "models", TOKENIZER, **changes)
    with pytest.raises(UsageError, match=message):
        draw(path)


def test_models_of_different_exports_are_refused(tmp_path):
    path = make_folder(tmp_path / "models", TOKENIZER)
    make_folder(tmp_path / "larger", TOKENIZER, latent=(4, 8, 8))
    (tmp_path / "larger" / "vae_decoder" / "model.onnx").replace(path / "vae_decoder" / "model.onnx")
    with pytest.raises(
        UsageError, match=r"outputs latents \(4, 6, 10\), but the decoder takes .*8, 8\]: they are from different"
    ):
        draw(path)


def test_numbers_that_are_not_finite_are_an_error(tmp_path):
    path = make_folder(tmp_path / "models", TOKENIZER)
    file = path / "vae_decoder" / "model.onnx"
    model = onnx.load(file)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "weights")
    weights.CopyFrom(onnx.numpy_helper.from_array(np.full((3, 4, 1, 1), np.nan, np.float32), "weights"))
    onnx.save(model, file)
    with pytest.raises(AscendParallelError, match="not finite: float16 overflows"):
        draw(path)
