"""export_onnx.py and diffusers_pipeline.py: we draw from the export what diffusers draws from the checkpoint."""

import shutil
import sys

import diffusers_pipeline
import export_onnx
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoint import Checkpoint, RandomSD21
from commands import TINY, run_app
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers_pipeline import load_pipeline
from export_onnx import export_folder
from networks import OPSET
from parallel_unet import ParallelUNet
from PIL import Image
from random_sd21 import _scale_output
from text_to_image import Request, TextToImage
from transformers import CLIPTextConfig, CLIPTextModel
from weights_file import gather_weights

from ascend_parallel import AscendParallelError, DiskError, ParallelPredictUtils, ShapeError, UsageError
from ascend_parallel.diffusion.model_folder import MODELS, find_models
from ascend_parallel.diffusion.scheduler import DDIMScheduler
from ascend_parallel.diffusion.tokenizer import ClipTokenizer

PROMPTS = ["a red circle on white", "a blue square on pink"]
STEPS = 4
VOCABULARY = 587  # of the tiny tokenizer
LEVELS = 1  # the accepted difference in levels of 0..255: a value between two levels may be rounded differently


def make_checkpoint(path):
    """Save a checkpoint with diffusers, with 2.1's types of blocks, but too small to draw anything."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
    )
    with torch.no_grad():  # otherwise pictures would be gray, and independent of the noise
        for last in (unet.conv_out, vae.decoder.conv_out):
            last.weight *= 10
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=24,
            intermediate_size=48,
            projection_dim=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=VOCABULARY - 2,
            eos_token_id=VOCABULARY - 1,
        )
    )
    for name, model in {"unet": unet, "vae": vae, "text_encoder": text_encoder}.items():
        model.save_pretrained(path / name)
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(TINY / name, path / name)
    shutil.copyfile(TINY / "model_index.json", path / "model_index.json")
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "new" / "models"
    export_folder(Checkpoint(checkpoint), out, None)
    return out


def noise(count):
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def draw(pipeline, prompts=PROMPTS, **more):
    options = {"num_inference_steps": STEPS, "guidance_scale": 5.0, "output_type": "np", **more}
    return pipeline(prompts, latents=noise(len(prompts)), **options).images


def load(checkpoint, **more):
    pipeline = StableDiffusionPipeline.from_pretrained(checkpoint, local_files_only=True, **more)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def runner(exported):
    with ParallelPredictUtils(exported / "unet" / "model.onnx", devices="cpu:0,1") as runner:
        yield runner


@pytest.fixture(scope="module")
def unet(runner, exported):
    return ParallelUNet(runner, find_models(exported, None).settings["unet"])


@pytest.mark.parametrize("scale", [5.0, 1.0])
def test_diffusers_draws_the_same_with_our_unet(checkpoint, unet, runner, scale):
    expected = draw(load(checkpoint), guidance_scale=scale)
    before = [worker["rows"] for worker in runner.stats()["workers"].values()]
    actual = draw(load(checkpoint, unet=unet), guidance_scale=scale)
    assert expected.std() > 0.05 and abs(expected[0] - expected[1]).max() > 0.1  # the pictures have content, and differ
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    done = [now["rows"] - then for now, then in zip(runner.stats()["workers"].values(), before, strict=True)]
    assert done == [STEPS * len(expected) * (2 if scale > 1 else 1) / 2] * 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in diffusers' own code with a newer numpy
def test_other_schedulers_of_diffusers_draw_the_same(checkpoint, unet):
    pipelines = [load(checkpoint), load_pipeline(checkpoint, unet)]
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    expected, actual = (draw(pipeline) for pipeline in pipelines)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in diffusers' own code with a newer numpy
def test_fractional_time_steps_are_refused(checkpoint, unet):
    pipeline = load(checkpoint, unet=unet)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="linspace")
    with pytest.raises(UsageError, match="uses time step .*, but the exported U-Net takes whole ones .int64.; choose"):
        draw(pipeline, num_inference_steps=7)


def call(unet, *more, timestep=7, dtype=torch.float32, **named):
    return unet(noise(2).to(dtype), timestep, torch.zeros(2, 77, 24, dtype=dtype), *more, **named)


REFUSED = {
    "attention scale": ((), {"cross_attention_kwargs": {"scale": 0.5}}, "cross_attention_kwargs was given"),
    "class labels, by position": ((torch.zeros(2),), {}, "class_labels was given"),
    "ControlNet": ((), {"mid_block_additional_residual": torch.zeros(1)}, "mid_block_additional_residual was given"),
    "guidance embedding": ((), {"timestep_cond": torch.zeros(2, 8)}, "timestep_cond was given"),
    "IP-Adapter": ((), {"added_cond_kwargs": {"image_embeds": 1}}, "added_cond_kwargs was given"),
    "an unknown argument": ((), {"of_a_newer_version": 1}, "of_a_newer_version was given"),
}


@pytest.mark.parametrize(("others", "named", "message"), REFUSED.values(), ids=REFUSED)
def test_arguments_that_the_exported_unet_would_ignore_are_refused(unet, others, named, message):
    with pytest.raises(UsageError, match=f"{message}, but the exported U-Net has no such input"):
        call(unet, *others, **named)


def test_the_unet_has_the_inputs_and_outputs_of_diffusers_own(unet, checkpoint):
    own = UNet2DConditionModel.from_pretrained(checkpoint / "unet").eval()
    with torch.no_grad():
        expected = call(own).sample
    for actual in (call(unet).sample, call(unet, return_dict=False)[0], call(unet, None, cross_attention_kwargs={})[0]):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    for same in (torch.tensor(7), torch.tensor([7, 7]), torch.tensor(7.0)):
        torch.testing.assert_close(call(unet, timestep=same).sample, expected, atol=1e-5, rtol=1e-4)
    half = call(unet, dtype=torch.float16).sample
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), expected, atol=1e-2, rtol=1e-2)
    assert (unet.dtype, unet.device, unet.config.sample_size) == (torch.float32, torch.device("cpu"), 8)


def test_invalid_uses_are_refused(unet, runner, tmp_path):
    with pytest.raises(ShapeError, match="timestep has 2 different time steps; the exported U-Net takes one"):
        call(unet, timestep=torch.tensor([7, 8]))
    with pytest.raises(UsageError, match="has no weights to save"):
        unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(UsageError, match="settings have no sample_size; expected its config.json"):
        ParallelUNet(runner, {})
    with pytest.raises(UsageError, match="is not a checkpoint that diffusers can load"):
        load_pipeline(tmp_path, unet)


def test_the_command_draws_a_picture(checkpoint, exported, tmp_path, monkeypatch, capsys):
    output = tmp_path / "new" / "x.png"
    options = ["--prompt", PROMPTS[0], "--steps", STEPS, "--seed", 3, "--devices", "cpu:0,1", "--output", output]
    code, stderr = run_in_process([checkpoint, exported, *options], monkeypatch, capsys, diffusers_pipeline)
    assert code in (0, None), stderr
    noise = torch.Generator().manual_seed(3)
    expected = load(checkpoint)(PROMPTS[0], num_inference_steps=STEPS, generator=noise, output_type="np").images[0]
    with Image.open(output) as picture:
        assert abs(np.asarray(picture) - (expected * 255).round()).max() <= LEVELS


def test_the_command_refuses_a_folder_that_is_not_a_checkpoint(exported, tmp_path, monkeypatch, capsys):
    code, stderr = run_in_process([tmp_path, exported, "--prompt", "x"], monkeypatch, capsys, diffusers_pipeline)
    assert code == UsageError.exit_code_of_cli
    assert (
        stderr.startswith("diffusers_pipeline.py: error: ") and "has no model_index.json; expected a folder" in stderr
    )


# ---- the export


def draw_ours(models, devices, noise_of=0, **more):
    """Draw with main.py's loop; return the noise, and the pictures as int16."""
    folder = find_models(models, None)
    scheduler = DDIMScheduler.from_config(models / "scheduler" / "scheduler_config.json")
    scheduler.set_timesteps(STEPS)
    tokenizer = ClipTokenizer.from_folder(models / "tokenizer")
    request = Request(PROMPTS, "", 5.0, noise_of)
    with ParallelPredictUtils(folder.files, devices=devices, engine_options=folder.engine_options) as runner:
        pipeline = TextToImage(runner, folder, tokenizer, scheduler)
        return pipeline.make_noise(request), pipeline.draw(request).astype(np.int16)


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_main_draws_from_the_export_what_diffusers_draws_from_the_checkpoint(checkpoint, exported, tmp_path, batch):
    models = exported
    if batch is not None:
        models = tmp_path / "models"
        export_folder(Checkpoint(checkpoint), models, batch)
    latents, actual = draw_ours(models, "cpu:0,1")
    pipeline = load(checkpoint)
    images = pipeline(
        PROMPTS,
        latents=torch.from_numpy(latents),
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        output_type="np",
    ).images
    assert abs(actual - (images * 255).round()).max() <= LEVELS
    session = onnxruntime.InferenceSession(models / "unet" / "model.onnx")
    assert session.get_inputs()[0].shape == [batch or "batch", 4, 8, 8]
    assert session.get_inputs()[1].shape == [1]


def test_weights_are_in_one_file_beside_each_model(exported):
    assert find_models(exported, None).engine_options  # they make the engine map the weights
    for name in MODELS:
        assert sorted(file.name for file in (exported / name).iterdir()) == [
            "config.json",
            "model.onnx",
            "model.onnx_data",
        ]
        model = onnx.load(exported / name / "model.onnx", load_external_data=False)
        assert [entry.version for entry in model.opset_import] == [OPSET]
        assert all(len(tensor.raw_data) < 1024 for tensor in model.graph.initializer)
        onnx.checker.check_model(str(exported / name / "model.onnx"))
    assert (exported.stat().st_mode & 0o777) == 0o755
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]


def test_with_a_time_step_for_each_row_the_rows_are_those_of_torch(checkpoint, tmp_path):
    export_folder(Checkpoint(checkpoint), tmp_path / "out", None, is_timestep_per_row=True)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "unet" / "model.onnx")
    assert [node.shape[0] for node in session.get_inputs()] == ["batch"] * 3
    text = torch.randn(3, 77, 24, generator=torch.Generator().manual_seed(2))
    timesteps = torch.tensor([7, 500, 981])
    with torch.no_grad():
        expected = Checkpoint(checkpoint).load("unet")(noise(3), timesteps, text).sample.numpy()
    feeds = {"sample": noise(3).numpy(), "timestep": timesteps.numpy(), "encoder_hidden_states": text.numpy()}
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=1e-4 * np.ptp(expected))
    at_one = session.run(None, {**feeds, "timestep": np.full(3, 7)})[0]
    assert not np.allclose(at_one[1:], expected[1:], atol=1e-2 * np.ptp(expected))


def test_weights_in_many_files_are_gathered(exported, tmp_path):
    """The exporter writes many files for weights above 2 GB."""
    source, file = exported / "unet" / "model.onnx", tmp_path / "model.onnx"
    onnx.save(onnx.load(source), file, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=2048)
    assert len(list(tmp_path.iterdir())) > 10
    gather_weights(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx_data"]
    feeds = {
        "sample": noise(2).numpy(),
        "timestep": np.array([7]),
        "encoder_hidden_states": np.ones((2, 77, 24), np.float32),
    }
    actual, expected = (onnxruntime.InferenceSession(path).run(None, feeds)[0] for path in (file, source))
    np.testing.assert_array_equal(actual, expected)


def test_a_half_precision_variant_is_read(checkpoint, tmp_path):
    half = shutil.copytree(checkpoint, tmp_path / "half")
    pipeline = load(checkpoint)
    for name in ("unet", "vae", "text_encoder"):
        (file,) = (half / name).glob("*.safetensors")
        file.unlink()
        getattr(pipeline, name).half().save_pretrained(half / name, variant="fp16")
    model = Checkpoint(half).load("unet")
    reference = Checkpoint(checkpoint).load("unet")
    assert model.dtype == torch.float32
    torch.testing.assert_close(model.conv_in.weight, reference.conv_in.weight, atol=1e-3, rtol=1e-2)


def test_random_weights_have_the_real_size():
    source = RandomSD21()
    assert sum(parameter.numel() for parameter in source.skeleton("unet").parameters()) == 865_910_724
    assert source.count_parameters() == 865_910_724 + 340_387_840 + 49_490_199


def test_random_outputs_have_the_deviation_of_real_ones():
    torch.manual_seed(0)
    last = torch.nn.Conv2d(64, 3, 3, padding=1)
    _scale_output(last, 0.4)
    with torch.no_grad():
        outputs = last(torch.nn.functional.silu(torch.randn(4, 64, 32, 32)))
    assert outputs.std() == pytest.approx(0.4, rel=0.15)


def without(checkpoint, folder, name):
    copy = shutil.copytree(checkpoint, folder)
    target = copy / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    return copy


def filled(checkpoint, folder, name, content):
    copy = shutil.copytree(checkpoint, folder)
    (copy / name).write_text(content)
    return copy


WRONG = {  # what is wrong -> (a checkpoint and the test's folder -> the folders, a part of the message)
    "no folders": (lambda c, p: [], "Missing argument"),
    "no OUT": (lambda c, p: [c], "got 1 folders .*; expected CHECKPOINT_DIR OUT, or --random OUT"),
    "a checkpoint and --random": (lambda c, p: ["--random", c, p / "out"], "got 2 folders .*; expected --random OUT"),
    "no such checkpoint": (lambda c, p: [p / "no", p / "out"], "no: there is no such folder"),
    "no diffusers folder": (lambda c, p: [p, p / "out"], "has no model_index.json; expected a folder that diffusers'"),
    "another pipeline": (
        lambda c, p: [filled(c, p / "c", "model_index.json", '{"_class_name": "FluxPipeline"}'), p / "out"],
        "is for diffusers' FluxPipeline; expected one for StableDiffusionPipeline",
    ),
    "no U-Net": (lambda c, p: [without(c, p / "c", "unet"), p / "out"], "has no unet/config.json; expected all files"),
    "no vocabulary": (
        lambda c, p: [without(c, p / "c", "tokenizer/vocab.json"), p / "out"],
        "has no tokenizer/vocab.json; expected all files",
    ),
    "settings that are not JSON": (
        lambda c, p: [filled(c, p / "c", "vae/config.json", "{"), p / "out"],
        "vae/config.json is not a readable JSON file",
    ),
    "no weights": (
        lambda c, p: [without(c, p / "c", "unet/diffusion_pytorch_model.safetensors"), p / "out"],
        r"unet has no weights; expected diffusion_pytorch_model.safetensors or diffusion_pytorch_model.bin there",
    ),
    "broken weights": (
        lambda c, p: [filled(c, p / "c", "text_encoder/model.safetensors", "no weights"), p / "out"],
        "the weights in .*text_encoder could not be read",
    ),
    "OUT is full": (lambda c, p: [c, filled(c, p / "c", "x", "").parent], "exists and is not empty"),
    "OUT is a file": (lambda c, p: [c, filled(c, p / "c", "x", "") / "x"], "exists and is not a folder"),
    "no rows": (lambda c, p: ["--batch", "0", c, p / "out"], "Invalid value for '--batch'"),
}


def run_in_process(arguments, monkeypatch, capsys, command=export_onnx):
    """Run a command line in this process; return its exit code and stderr."""
    name = f"{command.__name__}.py"
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run_app(command.app, name)
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_usage_errors_are_one_line_and_leave_nothing(checkpoint, tmp_path, monkeypatch, capsys, arguments, message):
    code, stderr = run_in_process(arguments(checkpoint, tmp_path), monkeypatch, capsys)
    stderr = stderr.splitlines()[-1]
    assert code == UsageError.exit_code_of_cli
    assert stderr.startswith("export_onnx.py: error: ")
    with pytest.raises(ValueError, match=message):
        raise ValueError(stderr)
    assert {path.name for path in tmp_path.iterdir()} <= {"c"}


def test_too_little_disk_space_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "export_onnx.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 9 * 10**9, 10**9)
    )
    with pytest.raises(
        DiskError, match=r"out needs 5\.3 GB, and .* has 1\.0 GB free; free some disk space, or choose another"
    ):
        export_folder(RandomSD21(), tmp_path / "out", None)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_reported_with_the_command_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export_onnx, "NEEDED", {"no_such_torch": "torch"})
    code, stderr = run_in_process([tmp_path, tmp_path / "out"], monkeypatch, capsys)
    assert code == UsageError.exit_code_of_cli
    assert "this example needs torch: pip install torch diffusers" in stderr


def test_an_export_that_differs_from_torch_is_an_error(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "TOLERANCE", 0.0)
    with pytest.raises(AscendParallelError, match="exported .* computes other numbers than torch: they differ by"):
        export_folder(Checkpoint(checkpoint), tmp_path / "out", None)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_an_error(checkpoint, tmp_path):
    class Broken(Checkpoint):
        def load(self, name):
            model = super().load(name)
            if name == "unet":
                torch.nn.init.constant_(model.conv_out.weight, float("nan"))
            return model

    with pytest.raises(AscendParallelError, match="unet computes numbers in torch that are not finite .out_sample."):
        export_folder(Broken(checkpoint), tmp_path / "out", None)
    assert list(tmp_path.iterdir()) == []
