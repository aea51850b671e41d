"""Text to image: prompts -> text encoder -> denoising steps of the U-Net -> decoder -> pictures.

Source: Rombach et al. 2021, "High-Resolution Image Synthesis with Latent Diffusion Models",
https://arxiv.org/abs/2112.10752; the loop is that of diffusers' StableDiffusionPipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ascend_parallel import ParallelPredictUtils
from ascend_parallel.diffusion.model_folder import ModelFolder
from ascend_parallel.diffusion.scheduler import DDIMScheduler
from ascend_parallel.diffusion.specs import Array
from ascend_parallel.diffusion.stable_diffusion import StableDiffusion, guide
from ascend_parallel.diffusion.tokenizer import ClipTokenizer


class Request(NamedTuple):
    """A request to draw pictures.

    Attributes:
        prompts: one prompt per picture.
        negative_prompt: what none of the pictures should show.
        guidance_scale: how strongly a picture follows its prompt; at 1 or less there is no guidance, and the negative
            prompt has no effect.
        seed: the seed of the first picture's noise; each further picture adds one, so that each can be drawn alone.
    """

    prompts: list[str]
    negative_prompt: str
    guidance_scale: float
    seed: int

    @property
    def texts(self) -> list[str]:
        """The texts of the U-Net's rows: with guidance, all negative prompts first, then the prompts.

        If the rows are divided between two devices, one predicts the negative prompts and the other the prompts.
        """
        negatives = [self.negative_prompt] * len(self.prompts) if self.guidance_scale > 1 else []
        return [*negatives, *self.prompts]


class TextToImage:
    """Stable Diffusion on a runner with its three models.

    ::

        with ParallelPredictUtils(folder.files, devices="cpu:0,1") as runner:
            pictures = TextToImage(runner, folder, tokenizer, scheduler).draw(request)
    """

    def __init__(
        self, runner: ParallelPredictUtils, folder: ModelFolder, tokenizer: ClipTokenizer, scheduler: DDIMScheduler
    ) -> None:
        """Determine the sizes from the models.

        Args:
            runner: a built runner with the models text_encoder, unet and vae_decoder.
            folder: the folder of the models.
            tokenizer: the tokenizer of the folder.
            scheduler: the scheduler of the folder, with the time steps set.

        Raises:
            UsageError: if these are not the models of a Stable Diffusion.
        """
        self._runner = runner
        self._scheduler = scheduler
        self._between = StableDiffusion(
            folder, tokenizer, {name: model.inputs or [] for name, model in runner.models.items()}
        )
        self.sizes = self._between.sizes

    def draw(self, request: Request, on_step: Callable[[], None] = lambda: None) -> NDArray[np.uint8]:
        """Draw one picture per prompt.

        Args:
            request: what to draw.
            on_step: called after each denoising step.

        Returns:
            (N, height, width, 3) in 0..255.

        Raises:
            WorkerError: if a device failed.
            AscendParallelError: if the models computed numbers that are not finite.
        """
        text = self.encode(request.texts)
        latents = self.denoise(text, self.make_noise(request), request.guidance_scale, on_step)
        return self.decode(latents)

    def make_noise(self, request: Request) -> NDArray[np.float32]:
        """Return the initial latents, (N, channels, height, width), each with its own seed."""
        seeds = range(request.seed, request.seed + len(request.prompts))
        return np.concatenate([self._between.noise(seed) for seed in seeds])

    def encode(self, texts: list[str]) -> Array:
        """Return the text states for the U-Net, (N, tokens, width); equal texts are encoded once."""
        unique_texts = list(dict.fromkeys(texts))
        states = self._between.text_states(self._predict("text_encoder", self._between.text_feeds(unique_texts)))
        return states[[unique_texts.index(text) for text in texts]]

    def denoise(
        self, text: Array, latents: NDArray[np.float32], guidance_scale: float, on_step: Callable[[], None]
    ) -> NDArray[np.float32]:
        """Denoise latents.

        Args:
            text: (N, tokens, width), or (2 N, tokens, width) for guidance: the negative prompts first.
            latents: the noise, (N, channels, height, width).
            guidance_scale: see :class:`Request`.
            on_step: called after each step.

        Returns:
            The latents, with the noise's shape.
        """
        # Both inputs are in shared memory, so that no step copies an input that does not change.
        rows = self._runner.empty((len(text), *self.sizes.latent), self._between.sample_dtype)
        shared_text = self._share(text)
        for timestep in self._scheduler.timesteps:
            for first in range(0, len(rows), len(latents)):
                rows[first : first + len(latents)] = latents
            outputs = self._predict("unet", self._between.unet_feeds(rows, timestep, shared_text))
            predicted = self._between.prediction(outputs)
            latents = self._scheduler.step(guide(predicted, len(latents), guidance_scale), timestep, latents)
            on_step()
        return latents

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the pictures of latents: (N, height, width, 3) in 0..255."""
        return self._between.pictures(self._predict("vae_decoder", self._between.decoder_feeds(latents)))

    def _share(self, array: Array) -> Array:
        shared: Array = self._runner.empty(array.shape, array.dtype)
        shared[...] = array
        return shared

    def _predict(self, model: str, feeds: dict[str, Array]) -> dict[str, Any]:
        outputs: dict[str, Any] = self._runner.predict(feeds, model=model)
        return outputs
