"""Check the exported tiny model: draw every scene that it knows, and recognise the scenes in the pictures.

    pip install -e '.[cpu,sd]'
    python examples/sd21/check_tiny.py --model examples/sd21/tiny --sheet sheet.png

It draws 120 scenes with each of 8 seeds, in two minutes on two processor cores. The exit code is 1 if the model misses
one of the GOALS. A single seed is not sufficient: 0 to 3 of 120 pictures have the wrong colour.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from shapes import BACKGROUNDS, COLOURS, SCENES, SHAPES, SIZE, recognise

from ascend_parallel.diffusion.scheduler import DDIMScheduler
from ascend_parallel.diffusion.stable_diffusion import to_bytes
from ascend_parallel.diffusion.tokenizer import ClipTokenizer

GOALS = {"colour": 0.98, "background": 0.99, "shape": 0.95}  # minimum share of correct pictures
GUIDANCE = 4.0
STEPS = 30
BATCH = 40  # prompts per call


class OnnxPipeline:
    """A minimal text-to-image pipeline on ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = ClipTokenizer.from_folder(folder / "tokenizer")
        self.scheduler = DDIMScheduler.from_config(folder / "scheduler" / "scheduler_config.json")
        self._text_encoder, self._unet, self._decoder = (
            onnxruntime.InferenceSession(folder / name / "model.onnx")
            for name in ("text_encoder", "unet", "vae_decoder")
        )
        settings = json.loads((folder / "vae_decoder" / "config.json").read_text("utf-8"))
        self._scaling_factor = settings["scaling_factor"]

    def __call__(
        self, prompts: list[str], noise: NDArray[np.float32], steps: int, guidance: float
    ) -> NDArray[np.float32]:
        """Return one picture per prompt, from noise (N, 4, 8, 8): (N, 3, 64, 64) in -1..1.

        Source of the guidance: Ho and Salimans 2022, https://arxiv.org/abs/2207.12598.
        """
        ids = self.tokenizer.encode([""] * len(prompts) + prompts)
        text = self._text_encoder.run(["last_hidden_state"], {"input_ids": ids})[0]
        latents = noise
        for timestep in self.scheduler.set_timesteps(steps):
            feeds = {
                "sample": np.concatenate([latents, latents]),
                "timestep": np.array([timestep]),
                "encoder_hidden_states": text,
            }
            without, with_prompt = np.split(self._unet.run(["out_sample"], feeds)[0], 2)
            guided = without + np.float32(guidance) * (with_prompt - without)
            latents = self.scheduler.step(guided, timestep, latents)
        feeds = {"latent_sample": latents / np.float32(self._scaling_factor)}
        return np.asarray(self._decoder.run(["sample"], feeds)[0])


def draw_all(pipeline: OnnxPipeline, steps: int, guidance: float, seed: int) -> NDArray[np.uint8]:
    """Return the pictures of SCENES, in order, (120, 64, 64, 3)."""
    rng = np.random.default_rng(seed)
    prompts = [scene.prompt for scene in SCENES]
    pictures = [
        pipeline(part, rng.standard_normal((len(part), 4, 8, 8), np.float32), steps, guidance)
        for part in (prompts[i : i + BATCH] for i in range(0, len(prompts), BATCH))
    ]
    return to_bytes(np.concatenate(pictures))


def count_correct(pictures: NDArray[np.uint8]) -> dict[str, int]:
    """Return how many pictures of SCENES have the correct colour, background and shape; print the others."""
    correct = dict.fromkeys(GOALS, 0)
    for expected, picture in zip(SCENES, pictures, strict=True):
        actual = recognise(picture)
        if actual != expected:
            print(f"prompt: {expected.prompt}, recognised: {actual.prompt}")
        for trait in correct:
            correct[trait] += getattr(actual, trait) == getattr(expected, trait)
    return correct


def save_sheet(pictures: NDArray[np.uint8], path: Path) -> None:
    """Save the pictures of SCENES as one picture, with a row per colour, at twice the size."""
    rows, columns = len(COLOURS), len(SHAPES) * len(BACKGROUNDS)
    grid = pictures.reshape(rows, columns, SIZE, SIZE, 3).swapaxes(1, 2)
    sheet = Image.fromarray(grid.reshape(rows * SIZE, columns * SIZE, 3))
    sheet.resize((2 * sheet.width, 2 * sheet.height)).save(path)


def main() -> int:
    """Draw, check, print; return 0 if every goal is reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the exported model")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"denoising steps (default: {STEPS})")
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help=f"guidance scale (default: {GUIDANCE:g})")
    parser.add_argument("--seeds", type=int, default=8, help="number of seeds, from 0 on (default: 8)")
    parser.add_argument("--sheet", type=Path, help="file for the pictures of seed 0, as one picture")
    arguments: Any = parser.parse_args()
    pipeline = OnnxPipeline(arguments.model)
    correct = dict.fromkeys(GOALS, 0)
    for seed in range(arguments.seeds):
        pictures = draw_all(pipeline, arguments.steps, arguments.guidance, seed)
        if arguments.sheet and seed == 0:
            save_sheet(pictures, arguments.sheet)
        for trait, count in count_correct(pictures).items():
            correct[trait] += count
    shares = {trait: count / (arguments.seeds * len(SCENES)) for trait, count in correct.items()}
    for trait, share in shares.items():
        print(f"{trait:10s} {share:7.2%} correct, goal {GOALS[trait]:.0%}")
    return int(any(shares[trait] < GOALS[trait] for trait in GOALS))


if __name__ == "__main__":
    sys.exit(main())
