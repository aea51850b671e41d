"""One picture, from its noise to its pixels: each step is a request of its rows to the U-Net's queue.

So pictures share batches. Where the U-Net takes a time step for each row, rows of pictures at different steps are in
one batch, and a new picture joins between two steps of the others. Where it takes one for all, the steps of different
pictures follow one another on the devices.
"""

from __future__ import annotations

import asyncio
import functools
import io
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ascend_parallel.batching.batch import Array
from ascend_parallel.diffusion.scheduler import DDIMScheduler
from ascend_parallel.diffusion.stable_diffusion import Latents, StableDiffusion, guide
from ascend_parallel.serving.request import INF
from ascend_parallel.serving.served_model import ServedModel

from .asking import ask

Pixels = NDArray[np.uint8]
#: Makes a picture of what is there now.
Preview = Callable[[], Awaitable[Pixels]]
#: Called after each step, with its number from 1 on; the picture goes on when it returns.
OnStep = Callable[[int, Preview], Awaitable[None]]


class Parts(NamedTuple):
    """The three models of an image model, and what is computed between them."""

    diffusion: StableDiffusion
    text_encoder: ServedModel
    unet: ServedModel
    decoder: ServedModel


class PictureJob(NamedTuple):
    """What is to be drawn.

    Attributes:
        seed: of the noise.
        guidance_scale: how closely the picture follows its prompt.
        latent: channels, height, width of the latents.
        scheduler: with its time steps set.
        deadline_s: ``time.monotonic`` from which on it is too late.
    """

    seed: int
    guidance_scale: float
    latent: tuple[int, int, int]
    scheduler: DDIMScheduler
    deadline_s: float = INF


class Picture:
    """A picture that is being drawn."""

    def __init__(self, parts: Parts, job: PictureJob, texts: Sequence[Array]) -> None:
        """Take what is to be drawn.

        Args:
            parts: who computes.
            job: what.
            texts: the text states of each row, (1, tokens, width); with guidance two, the negative prompt's first.
        """
        self._parts = parts
        self._job = job
        self._texts = texts
        self._sample = parts.unet.empty((1, *job.latent), parts.diffusion.sample_dtype)

    async def draw(self, on_step: OnStep) -> Pixels:
        """Return the pixels, (height, width, 3); raises what :func:`ask` raises."""
        job = self._job
        latents = self._parts.diffusion.noise(job.seed, job.latent)
        for number, timestep in enumerate(job.scheduler.timesteps, start=1):
            predicted = guide(await self._predict(latents, timestep), 1, job.guidance_scale)
            preview = functools.partial(self._preview, predicted, timestep, latents)
            latents = job.scheduler.step(predicted, timestep, latents)
            await on_step(number, preview)
        return await self._decode(latents)

    async def _predict(self, latents: Latents, timestep: Any) -> Latents:
        """Return the U-Net's prediction for each text, (1 or 2, channels, height, width).

        Each row is a request of its own, so that two devices compute the two halves of guidance.
        """
        self._sample[...] = latents
        diffusion = self._parts.diffusion
        requests = [diffusion.unet_feeds(self._sample, timestep, text) for text in self._texts]
        rows = await ask(self._parts.unet, requests, self._job.deadline_s)
        return np.concatenate([diffusion.prediction(outputs) for outputs in rows])

    async def _preview(self, predicted: Latents, timestep: Any, latents: Latents) -> Pixels:
        return await self._decode(self._job.scheduler.preview(predicted, timestep, latents))

    async def _decode(self, latents: Latents) -> Pixels:
        diffusion = self._parts.diffusion
        (outputs,) = await ask(self._parts.decoder, [diffusion.decoder_feeds(latents)], self._job.deadline_s)
        pictures = await asyncio.to_thread(diffusion.pictures, outputs)  # it takes milliseconds
        pixels: Pixels = pictures[0]
        return pixels


async def encode_texts(parts: Parts, texts: list[str], deadline_s: float) -> list[Array]:
    """Return the text states of each text, (1, tokens, width), where the U-Net's workers read them.

    All pictures of a request have the same. Raises what :func:`ask` raises.
    """
    diffusion = parts.diffusion
    feeds = diffusion.text_feeds(texts)
    rows = [{name: array[i : i + 1] for name, array in feeds.items()} for i in range(len(texts))]
    states = [diffusion.text_states(outputs) for outputs in await ask(parts.text_encoder, rows, deadline_s)]
    return [_share(parts.unet, state) for state in states]


def to_png(pixels: Pixels) -> bytes:
    """Return a picture, (height, width, 3), as a PNG file; it takes long enough to be called in another thread."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _share(model: ServedModel, array: Array) -> Array:
    """Return an array where the model's workers read it, so that no step copies what does not change."""
    shared = model.empty(array.shape, array.dtype)
    shared[...] = array
    return shared
