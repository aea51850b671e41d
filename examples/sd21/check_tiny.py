"""Judge the exported tiny model: ask for every scene it knows and read the pictures back.

    pip install onnxruntime tokenizers numpy pillow
    python examples/sd21/check_tiny.py --model examples/sd21/tiny --sheet sheet.png

120 scenes with each of 8 seeds; two minutes on two processor cores. Ends with code 1 where the model misses one of the
GOALS. One seed alone says little: of 120 pictures 0 to 3 have the wrong colour.
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
from scheduler import DDIMScheduler
from shapes import BACKGROUNDS, COLOURS, SCENES, SHAPES, SIZE, recognise, to_bytes
from tokenizer import ClipTokenizer

GOALS = {"colour": 0.98, "background": 0.99, "shape": 0.95}  # share of the pictures
GUIDANCE = 4.0
STEPS = 30
BATCH = 40  # prompts at a time


class OnnxPipeline:
    """Text to picture with ONNX Runtime, in as few lines as it takes."""

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
        """Draw one picture per prompt from noise (N, 4, 8, 8): (N, 3, 64, 64) in -1..1.

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
    """The pictures of SCENES, in order, (120, 64, 64, 3)."""
    rng = np.random.default_rng(seed)
    prompts = [scene.prompt for scene in SCENES]
    pictures = [
        pipeline(part, rng.standard_normal((len(part), 4, 8, 8), np.float32), steps, guidance)
        for part in (prompts[i : i + BATCH] for i in range(0, len(prompts), BATCH))
    ]
    return to_bytes(np.concatenate(pictures))


def judge(pictures: NDArray[np.uint8]) -> dict[str, int]:
    """How many pictures of SCENES have the right colour, background and shape; prints the others."""
    right = dict.fromkeys(GOALS, 0)
    for wanted, picture in zip(SCENES, pictures, strict=True):
        seen = recognise(picture)
        if seen != wanted:
            print(f"asked for {wanted.prompt}, got {seen.prompt}")
        for trait in right:
            right[trait] += getattr(seen, trait) == getattr(wanted, trait)
    return right


def save_sheet(pictures: NDArray[np.uint8], path: Path) -> None:
    """Save the pictures of SCENES as one, a row per colour, twice the size."""
    rows, columns = len(COLOURS), len(SHAPES) * len(BACKGROUNDS)
    grid = pictures.reshape(rows, columns, SIZE, SIZE, 3).swapaxes(1, 2)
    sheet = Image.fromarray(grid.reshape(rows * SIZE, columns * SIZE, 3))
    sheet.resize((2 * sheet.width, 2 * sheet.height)).save(path)


def main() -> int:
    """Draw, judge, print; 0 where every goal is reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the exported model")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--seeds", type=int, default=8, help="how many, from 0 on (default 8)")
    parser.add_argument("--sheet", type=Path, help="where to save the pictures of seed 0 in one")
    arguments: Any = parser.parse_args()
    pipeline = OnnxPipeline(arguments.model)
    right = dict.fromkeys(GOALS, 0)
    for seed in range(arguments.seeds):
        pictures = draw_all(pipeline, arguments.steps, arguments.guidance, seed)
        if arguments.sheet and seed == 0:
            save_sheet(pictures, arguments.sheet)
        for trait, count in judge(pictures).items():
            right[trait] += count
    shares = {trait: count / (arguments.seeds * len(SCENES)) for trait, count in right.items()}
    for trait, share in shares.items():
        print(f"{trait:10s} {share:7.2%} right, at least {GOALS[trait]:.0%} wanted")
    return int(any(shares[trait] < GOALS[trait] for trait in GOALS))


if __name__ == "__main__":
    sys.exit(main())
