"""Train a tiny model with Stable Diffusion 2.1's architecture and export it to ONNX.

It learns to draw "a red circle on white": 8 colours, 5 shapes, 3 backgrounds, 64 x 64 pixels. Its
files have the names, inputs and outputs of a real export. They take 6 MB instead of 5 GB, so that
examples and tests can run a complete text-to-image pipeline anywhere.

    pip install torch diffusers transformers onnx onnxruntime tokenizers numpy
    python examples/sd21/train_tiny.py --output examples/sd21/tiny
    python examples/sd21/check_tiny.py --model examples/sd21/tiny

It takes about 40 minutes on two processor cores. The trained autoencoder is saved in `--work` and reused
by the next run; delete it to train it again. `--quick` runs all stages in a minute or two, to
try out changes; its pictures are noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from export_tiny import export_model, write_scheduler, write_tokenizer
from shapes import SCENES, SIZE, Scene, draw
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextConfig, CLIPTextModel

from ascend_parallel.diffusion.scheduler import DDIMScheduler
from ascend_parallel.diffusion.tokenizer import ClipTokenizer

AUTOENCODER_STEPS, AUTOENCODER_BATCH = 4500, 16
DENOISER_STEPS, DENOISER_BATCH = 5500, 64
AUTOENCODER_RATE, DENOISER_RATE = 2e-3, 1.5e-3  # maximum learning rates of the cosine schedules
MEMORY = 0.998  # of the running mean of the weights, over about 500 steps
PICTURES = 12_000  # drawn once for the denoiser: 100 of every scene
LATENT_NOISE = 0.3  # relative to the latents' deviation: makes the decoder robust to the denoiser's errors
KL_WEIGHT = 2e-4  # limits the size of the latents; a larger weight blurs the pictures
UNPROMPTED = 0.1  # share of empty prompts, for classifier-free guidance
TEXT_WIDTH = 48


def new_autoencoder() -> AutoencoderKL:
    """Return an autoencoder from 64 x 64 pictures to 4 x 8 x 8 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 40, 56),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def new_unet() -> UNet2DConditionModel:
    """Return a denoiser with Stable Diffusion 2.1's types of blocks, two instead of four."""
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        layers_per_block=1,
        block_out_channels=(40, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(4, 8),  # in fact, the number of heads
        use_linear_projection=True,
        norm_num_groups=8,
    )


def new_text_encoder(vocabulary_size: int) -> CLIPTextModel:
    """Return a text encoder with two layers; start and end are the last two ids, "!" (0) is the padding."""
    config = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act="gelu",
        bos_token_id=vocabulary_size - 2,
        eos_token_id=vocabulary_size - 1,
        pad_token_id=0,
    )
    config._attn_implementation = "eager"  # exports to plain matrix products
    return CLIPTextModel(config)


def train(name: str, model: torch.nn.Module, losses: Iterator[torch.Tensor], steps: int, rate: float) -> None:
    """Minimise `losses`, one per step; at the end, `model` has the mean of the last weights."""
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(MEMORY))
    start = time.monotonic()
    for step in range(steps):
        loss = next(losses)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        mean.update_parameters(model)
        if step % 200 == 0 or step == steps - 1:
            print(f"{name} {step:5d} loss {loss:.4f} {time.monotonic() - start:6.0f} s", flush=True)
    model.load_state_dict(mean.module.state_dict())
    model.eval()


def draw_batch(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return new pictures and their shapes' coverage, for one step of the autoencoder."""
    scenes = [SCENES[i] for i in rng.integers(len(SCENES), size=AUTOENCODER_BATCH)]
    pictures, covered = draw(scenes, rng)
    return torch.from_numpy(pictures), torch.from_numpy(covered)


def autoencoder_losses(vae: AutoencoderKL, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Yield the autoencoder's loss on new pictures."""
    while True:
        pictures, covered = draw_batch(rng)
        posterior = vae.encode(pictures).latent_dist
        latents = posterior.sample()
        level = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1) * latents.std().detach()
        decoded = vae.decode(latents + level * torch.randn_like(latents)).sample
        kl = posterior.kl().mean() / latents[0].numel()
        yield picture_loss(decoded, pictures, covered) + KL_WEIGHT * kl


def picture_loss(decoded: torch.Tensor, pictures: torch.Tensor, covered: torch.Tensor) -> torch.Tensor:
    """Return the mean error of the pixels, with equal weights for shape and background.

    Without the weights, the colour of a small shape fades.
    """
    error = decoded - pictures
    weight = balance(covered) + balance(1 - covered)
    return (weight * (error.abs() + error.square())).mean()


def balance(region: torch.Tensor) -> torch.Tensor:
    """Return weights for a region's pixels (N, 1, H, W), with a mean of 1/2 per picture."""
    return region / region.mean((2, 3), keepdim=True) / 2


def captions(scene: Scene) -> list[str]:
    """Return the possible prompts for a scene; the first one is the usual one, and therefore repeated."""
    thing = f"{scene.colour} {scene.shape}"
    article = "an" if scene.colour[0] in "aeiou" else "a"
    return [
        *[scene.prompt] * 4,
        f"{article} {thing} on {scene.background}",
        f"{thing} on {scene.background}",
        f"{article} {thing} on a {scene.background} background",
        f"a {thing}",
        thing,
    ]


def encode_pictures(vae: AutoencoderKL, rng: np.random.Generator) -> torch.Tensor:
    """Return the latents (PICTURES, 4, 8, 8) of the scenes in turn; picture i shows SCENES[i % 120].

    Sets the autoencoder's scaling factor so that the latents have a deviation of 1.
    """
    with torch.no_grad():
        latents = torch.cat(
            [
                vae.encode(torch.from_numpy(draw(SCENES, rng)[0])).latent_dist.mean
                for _ in range(PICTURES // len(SCENES))
            ]
        )
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return latents * vae.config["scaling_factor"]


def denoiser_losses(
    model: torch.nn.ModuleDict, latents: torch.Tensor, folder: Path, rng: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Yield the common loss of U-Net and text encoder: they predict v for captioned and noisy latents.

    Source: Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, appendix D.
    """
    tokenizer = ClipTokenizer.from_folder(folder / "tokenizer")
    scheduler = DDIMScheduler.from_config(folder / "scheduler" / "scheduler_config.json")
    alphas_cumprod = torch.from_numpy(scheduler.alphas_cumprod).float()
    wordings = torch.from_numpy(
        np.stack([tokenizer.encode(captions(scene)) for scene in SCENES])
    )  # (scene, wording, 77)
    empty_ids = torch.from_numpy(tokenizer.encode([""]))
    while True:
        indices = torch.from_numpy(rng.integers(len(latents), size=DENOISER_BATCH))
        wording = torch.from_numpy(rng.integers(wordings.shape[1], size=DENOISER_BATCH))
        unprompted = torch.from_numpy(rng.random((DENOISER_BATCH, 1)) < UNPROMPTED)
        ids = torch.where(unprompted, empty_ids, wordings[indices % len(SCENES), wording])
        # One time step from each of DENOISER_BATCH equal intervals: the loss varies less than with random steps.
        spans = (np.arange(DENOISER_BATCH) + rng.random(DENOISER_BATCH)) / DENOISER_BATCH
        timesteps = torch.from_numpy((spans * len(alphas_cumprod)).astype(np.int64))
        signal = alphas_cumprod[timesteps].sqrt()[:, None, None, None]
        spread = (1 - alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
        clean = latents[indices]
        noise = torch.randn_like(clean)
        text = model["text_encoder"](input_ids=ids).last_hidden_state
        predicted = model["unet"](signal * clean + spread * noise, timesteps, text).sample
        yield (predicted - (signal * noise - spread * clean)).square().mean()


def trained_autoencoder(work: Path, steps: int, rng: np.random.Generator) -> AutoencoderKL:
    """Return the autoencoder of an earlier run with as many steps, or a newly trained one."""
    vae = new_autoencoder()
    saved = work / f"autoencoder-{steps}.pt"
    if saved.is_file():
        vae.load_state_dict(torch.load(saved))
        return vae.eval()
    vae.to(memory_format=torch.channels_last)  # a third faster
    train("autoencoder", vae, autoencoder_losses(vae, rng), steps, AUTOENCODER_RATE)
    vae.to(memory_format=torch.contiguous_format)
    work.mkdir(parents=True, exist_ok=True)
    torch.save(vae.state_dict(), saved)
    return vae


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the exported model")
    parser.add_argument("--work", type=Path, default=Path("build/sd21"), help="intermediate files")
    parser.add_argument("--autoencoder-steps", type=int, default=AUTOENCODER_STEPS, help="training steps")
    parser.add_argument("--denoiser-steps", type=int, default=DENOISER_STEPS, help="training steps")
    parser.add_argument("--quick", action="store_true", help="20 steps each, to try out changes")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default: 0)")
    return parser.parse_args()


def main() -> None:
    """Train the autoencoder, then U-Net and text encoder on its latents; then export all."""
    arguments = parse_arguments()
    if arguments.quick:
        arguments.autoencoder_steps = arguments.denoiser_steps = 20
    torch.set_num_threads(arguments.threads)
    vocabulary_size = write_tokenizer(arguments.output / "tokenizer", known_words())
    write_scheduler(arguments.output / "scheduler", "v_prediction")
    rng = seeded(arguments.seed)
    vae = trained_autoencoder(arguments.work, arguments.autoencoder_steps, rng)
    rng = seeded(arguments.seed + 1)  # the same, whether the autoencoder was trained or loaded
    latents = encode_pictures(vae, rng)
    model: Any = torch.nn.ModuleDict({"unet": new_unet(), "text_encoder": new_text_encoder(vocabulary_size)})
    losses = denoiser_losses(model, latents, arguments.output, rng)
    train("denoiser", model, losses, arguments.denoiser_steps, DENOISER_RATE)
    export_model(arguments.output, model["text_encoder"], model["unet"], vae)


def seeded(seed: int) -> np.random.Generator:
    """Seed torch, and return a generator for numpy."""
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def known_words() -> list[str]:
    """Return all words of the captions, in the order of their first use."""
    return list(dict.fromkeys(" ".join(c for s in SCENES for c in captions(s)).split()))


if __name__ == "__main__":
    main()
