"""What is computed between the three models of a Stable Diffusion; who computes the models is the caller's.

The loop is that of diffusers' StableDiffusionPipeline::

    ids -> text encoder -> states; noise -> (U-Net -> guidance -> sampler) x steps -> decoder -> picture

Source: Rombach et al. 2021, "High-Resolution Image Synthesis with Latent Diffusion Models",
https://arxiv.org/abs/2112.10752.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ascend_parallel.errors import AscendParallelError
from ascend_parallel.worker.engines import TensorSpec

from .model_folder import ModelFolder
from .scheduler import DDIMScheduler
from .specs import Array, find_inputs, find_sizes, pick_output, timestep_shape, to_dtype
from .tokenizer import ClipTokenizer

#: The channels of the decoder's blocks, each of which but one doubles the sides; used if there is no config.json.
DECODER_BLOCKS = (128, 256, 512, 512)

Feeds = dict[str, Array]
Latents = NDArray[np.float32]


class StableDiffusion:
    """The inputs that the three models get, and what becomes of their outputs.

    Attributes:
        sizes: of latents and text.
        tokenizer: the tokenizer of the folder.
        pixels_per_latent: pixels of a picture per latent, in each direction.
        is_size_open: whether the models take latents of any height and width.
        is_timestep_per_row: whether the U-Net takes a time step for each row, so that rows at different steps can be
            in one batch.
    """

    def __init__(
        self, folder: ModelFolder, tokenizer: ClipTokenizer, specs: Mapping[str, Sequence[TensorSpec]]
    ) -> None:
        """Determine the sizes from the models.

        Args:
            folder: the folder of the models.
            tokenizer: the tokenizer of the folder.
            specs: the inputs of text_encoder, unet and vae_decoder.

        Raises:
            UsageError: if these are not the models of a Stable Diffusion.
        """
        self.tokenizer = tokenizer
        self._scaling_factor = np.float32(folder.scaling_factor)
        self._inputs = find_inputs(specs)
        self.sizes = find_sizes(self._inputs, folder.settings, tokenizer.length)
        tokenizer.length = self.sizes.tokens
        channels = folder.settings["vae_decoder"].get("block_out_channels", DECODER_BLOCKS)
        self.pixels_per_latent = 2 ** (len(channels) - 1)
        sides = (*self._inputs.sample.shape[2:], *self._inputs.latents.shape[2:])
        self.is_size_open = not any(isinstance(side, int) for side in sides)
        self.is_timestep_per_row = timestep_shape(self._inputs, 2) == (2,)

    def batch_axes(self, model: str) -> dict[str, int | None]:
        """Return the axis of the rows of each input of one of the three models; None for a time step of all rows."""
        names = self._inputs
        axes: dict[str, dict[str, int | None]] = {
            "text_encoder": {names.ids.name: 0},
            "unet": {
                names.sample.name: 0,
                names.timestep.name: 0 if self.is_timestep_per_row else None,
                names.text.name: 0,
            },
            "vae_decoder": {names.latents.name: 0},
        }
        return axes[model]

    def latent_of(self, width: int, height: int) -> tuple[int, int, int]:
        """Return channels, height and width of the latents of a picture, whose sides are in pixels."""
        return self.sizes.latent[0], height // self.pixels_per_latent, width // self.pixels_per_latent

    # ---- text

    def text_feeds(self, texts: list[str]) -> Feeds:
        """Return the text encoder's inputs for N texts."""
        return {self._inputs.ids.name: to_dtype(self.tokenizer.encode(texts), self._inputs.ids)}

    def text_states(self, outputs: Mapping[str, Array]) -> Array:
        """Return the text states for the U-Net, (N, tokens, width), in the U-Net's dtype."""
        return to_dtype(pick_output(outputs, "last_hidden_state", 3), self._inputs.text)

    # ---- denoising

    def noise(self, seed: int, latent: tuple[int, int, int] | None = None) -> Latents:
        """Return the initial latents of one picture, (1, channels, height, width); by default of their own size."""
        shape = (1, *(latent or self.sizes.latent))
        noise: Latents = np.random.default_rng(seed).standard_normal(shape, np.float32)
        noise *= np.float32(DDIMScheduler.init_noise_sigma)
        return noise

    @property
    def sample_dtype(self) -> np.dtype[np.generic]:
        """The dtype of the U-Net's latents."""
        return np.dtype(self._inputs.sample.dtype)

    def unet_feeds(self, sample: Array, timestep: int | np.integer, text: Array) -> Feeds:
        """Return the U-Net's inputs: N rows of latents at one time step, with their text states."""
        names = self._inputs
        return {
            names.sample.name: to_dtype(sample, names.sample),
            names.timestep.name: np.full(timestep_shape(names, len(sample)), timestep, names.timestep.dtype),
            names.text.name: text,
        }

    def prediction(self, outputs: Mapping[str, Array]) -> Latents:
        """Return the U-Net's prediction, as the sampler takes it."""
        predicted: Latents = pick_output(outputs, "out_sample", 4).astype(np.float32, copy=False)
        return predicted

    # ---- pictures

    def decoder_feeds(self, latents: Latents) -> Feeds:
        """Return the decoder's inputs for N latents."""
        return {self._inputs.latents.name: to_dtype(latents / self._scaling_factor, self._inputs.latents)}

    def pictures(self, outputs: Mapping[str, Array]) -> NDArray[np.uint8]:
        """Return the pictures, (N, height, width, 3) in 0..255.

        Raises:
            AscendParallelError: if the models computed numbers that are not finite.
        """
        pictures = pick_output(outputs, "sample", 4)
        if not np.isfinite(pictures).all():
            raise AscendParallelError(
                "the pictures contain numbers that are not finite: float16 overflows in some models; convert them with "
                "float32 precision"
            )
        return to_bytes(pictures)


def guide(predicted: Latents, pictures: int, scale: float) -> Latents:
    """Apply classifier-free guidance, which leads away from the negative prompt.

    Args:
        predicted: (2 N, ...): the predictions for the negative prompts, then for the prompts; (N, ...) without
            guidance.
        pictures: N.
        scale: 1 returns the predictions for the prompts.

    Returns:
        (N, ...).

    Source: Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, equation 6.
    """
    if len(predicted) == pictures:
        return predicted
    without_prompt, with_prompt = predicted[:pictures], predicted[pictures:]
    guided: Latents = without_prompt + np.float32(scale) * (with_prompt - without_prompt)
    return guided


def to_bytes(pictures: Array) -> NDArray[np.uint8]:
    """Turn (N, 3, H, W) in -1..1 into (N, H, W, 3) in 0..255, as Pillow reads pictures."""
    scaled = (np.clip(pictures, -1, 1) + 1) * 127.5
    pixels: NDArray[np.uint8] = scaled.round().astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels
