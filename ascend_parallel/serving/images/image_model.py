"""One image model: which requests it takes, and the drawing of their pictures."""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from ascend_parallel.diffusion.model_folder import ModelFolder
from ascend_parallel.diffusion.scheduler import DDIMScheduler
from ascend_parallel.errors import DeadlineError, OverloadedError
from ascend_parallel.runner.runner import ParallelPredictUtils
from ascend_parallel.serving.batcher import Limits
from ascend_parallel.serving.image_config import ImageConfig
from ascend_parallel.serving.observed_batcher import Observer

from .errors import FieldError
from .generation_request import GenerationRequest
from .parts import DiffusionRunner, PartModel, read_folder, runner_arguments
from .picture import Parts, Picture, PictureJob, Pixels, Preview, encode_texts
from .picture_queue import PictureQueue, Place
from .picture_stats import PictureStats

#: Requests that may wait for one of the three models: pictures are bounded, and each has two requests at most.
_MAX_QUEUE = 1 << 16
#: Where a request has no seed, one below is made up.
_MADE_UP_SEEDS = 1 << 32


class Generation(NamedTuple):
    """What a request asks for, checked.

    Attributes:
        texts: the text of each row of a picture: with guidance the negative prompt first.
        tokens: of the prompt.
        size: "WIDTHxHEIGHT".
        steps: of each picture.
        jobs: one for each picture.
        deadline_s: ``time.monotonic`` from which on it is too late.
    """

    texts: list[str]
    tokens: int
    size: str
    steps: int
    jobs: list[PictureJob]
    deadline_s: float


class Taker(Protocol):
    """Who takes the pictures of a request; a picture goes on when the method returns."""

    async def take_step(self, index: int, step: int, preview: Preview) -> None:
        """Take that a picture, by its index in the request, has done a step, the first of which is 1."""

    async def take_picture(self, index: int, pixels: Pixels) -> None:
        """Take a picture that is complete."""


class ImageModel:
    """A Stable Diffusion that draws pictures for many clients. All methods run in the event loop's thread.

    Attributes:
        name: its name for clients.
        config: what it keeps to.
        models: its text encoder, U-Net and decoder; the server loads and closes them as all other models.
        stats: what is counted.
        created_s: when it was made, in seconds since 1970.
    """

    def __init__(
        self,
        config: ImageConfig,
        folder: ModelFolder,
        runner: ParallelPredictUtils,
        observers: Sequence[Observer] = (),
    ) -> None:
        """Prepare; nothing is started.

        Args:
            config: what it keeps to.
            folder: its models, tokenizer and sampler.
            runner: runs the three models of the folder.
            observers: who is told of each request to one of them.

        Raises:
            UsageError: the tokenizer or the sampler cannot be read.
        """
        self.name = config.name
        self.config = config
        self.stats = PictureStats()
        self.created_s = int(time.time())
        self._sampler_config = folder.read_sampler().config
        self._shared = DiffusionRunner(runner, folder, folder.read_tokenizer(), config.sizes)
        self._observers = observers
        self.models = [
            self._make_part("text_encoder", config.max_batch_size),
            self._make_part("unet", config.max_batch_size),
            self._make_part("vae_decoder", 1),  # the memory of its activations is that of several U-Nets
        ]
        self._drawing: set[asyncio.Task[Any]] = set()
        self._has_given_up = False

    def _make_part(self, name: str, max_rows: int) -> PartModel:
        limits = Limits(max_rows, 0.0, _MAX_QUEUE, self.config.timeout_s, self.config.predict_timeout_s)
        return PartModel(self.name, name, self._shared, limits, self._observers)

    # ---- what it is

    @property
    def sizes(self) -> dict[str, tuple[int, int, int]]:
        """The sizes that can be asked for, the default first -> channels, height and width of latents.

        It is empty until the model is loaded.
        """
        return self._shared.sizes

    def _check_ready(self) -> None:
        """Raise OverloadedError where the model is not loaded yet, or not any more."""
        for model in self.models:
            if model.state != "READY":
                raise OverloadedError(f"model {self.name!r} {model.reason}")

    @functools.cached_property
    def _queue(self) -> PictureQueue:
        """The queue, of a model that is loaded: how many pictures fill all batches, the workers decide."""
        unet = self.models[1]
        capacity = unet.runner.capacity
        max_drawing = max(capacity, capacity * unet.max_rows // 2)
        return PictureQueue(self.config.max_queue_size, max_drawing, self.stats)

    # ---- requests

    async def plan(self, request: GenerationRequest) -> Generation:
        """Check what a request asks for.

        Raises:
            FieldError: the model does not do it.
            OverloadedError: the model is not ready.
        """
        deadline_s = time.monotonic() + self.config.timeout_s
        self._check_ready()
        config = self.config
        count, steps = request.n or 1, request.steps or config.steps
        _check_at_most("n", count, config.max_pictures)
        _check_at_most("steps", steps, config.max_steps)
        size, latent = self._find_size(request.size)
        scale = config.guidance_scale if request.guidance_scale is None else request.guidance_scale
        negative = request.negative_prompt or ""
        tokens = await self._count_tokens("prompt", request.prompt)
        await self._count_tokens("negative_prompt", negative)
        texts = [negative, request.prompt] if scale > 1 else [request.prompt]
        seed = secrets.randbelow(_MADE_UP_SEEDS) if request.seed is None else request.seed
        scheduler = self._make_scheduler(steps)
        jobs = [PictureJob(seed + i, scale, latent, scheduler, deadline_s) for i in range(count)]
        return Generation(texts, tokens, size, steps, jobs, deadline_s)

    def _make_scheduler(self, steps: int) -> DDIMScheduler:
        scheduler = DDIMScheduler(self._sampler_config)
        try:
            scheduler.set_timesteps(steps)
        except ValueError as error:
            raise FieldError(str(error), param="steps", code="invalid_value") from None
        return scheduler

    def _find_size(self, size: str | None) -> tuple[str, tuple[int, int, int]]:
        sizes = self.sizes
        if size is None or size == "auto":
            return next(iter(sizes.items()))
        if size not in sizes:
            expected = f"auto or {' or '.join(sizes)}"
            raise FieldError(f"size is {size!r:.100}; expected {expected}", param="size", code="invalid_value")
        return size, sizes[size]

    async def _count_tokens(self, field: str, text: str) -> int:
        tokenizer = self._shared.diffusion.tokenizer
        count = await asyncio.to_thread(tokenizer.count, text)
        if count > tokenizer.room:
            message = f"{field} has {count} tokens; the model takes at most {tokenizer.room}: shorten it"
            raise FieldError(message, param=field, code="string_above_max_length")
        return count

    # ---- drawing

    async def draw(self, generation: Generation, taker: Taker) -> None:
        """Draw the pictures of a request; where the task is cancelled, they are given up.

        Raises:
            OverloadedError: there are too many pictures, or the server ends.
            DeadlineError, WorkerError: they could not be computed.
            AscendParallelError: the models computed numbers that are not finite.
        """
        self._check_ready()
        places: list[Place] = []
        try:
            places += self._queue.enter(len(generation.jobs))
            await self._draw_in_time(self._draw_all(generation, places, taker), generation.deadline_s)
        except BaseException as error:
            complete = sum([place.is_complete for place in places])
            self.stats.count_failure(error, len(generation.jobs) - complete)
            raise
        finally:
            for place in places:
                place.leave()

    async def _draw_in_time(self, drawing: Coroutine[Any, Any, None], deadline_s: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._drawing.add(task)
        try:
            await asyncio.wait_for(drawing, max(0.0, deadline_s - time.monotonic()))
        except (asyncio.TimeoutError, DeadlineError):  # the latter of one of its steps
            raise DeadlineError(f"the request was not answered within {self.config.timeout_s:g} s") from None
        except asyncio.CancelledError:
            if self._has_given_up:
                raise OverloadedError("the server has ended before the pictures were complete") from None
            raise
        finally:
            self._drawing.discard(task)

    async def _draw_all(self, generation: Generation, places: Sequence[Place], taker: Taker) -> None:
        parts = Parts(self._shared.diffusion, *self.models)
        texts = await encode_texts(parts, generation.texts, generation.deadline_s)
        tasks = [
            asyncio.ensure_future(self._draw_one(index, Picture(parts, job, texts), place, taker))
            for index, (job, place) in enumerate(zip(generation.jobs, places, strict=True))
        ]
        try:
            await asyncio.gather(*tasks)
        finally:  # where one has failed, the others are of no use
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _draw_one(self, index: int, picture: Picture, place: Place, taker: Taker) -> None:
        await place.wait_for_turn()

        async def take_step(step: int, preview: Preview) -> None:
            self.stats.steps += 1
            await taker.take_step(index, step, preview)

        pixels = await picture.draw(take_step)
        place.leave()
        await taker.take_picture(index, pixels)
        self._queue.note_complete(place)

    def give_up(self) -> None:
        """Fail all pictures at once, as the server ends."""
        self._has_given_up = True
        for task in self._drawing:
            task.cancel()


def _check_at_most(field: str, value: int, limit: int) -> None:
    if value > limit:
        raise FieldError(f"{field} is {value}; expected at most {limit}", param=field, code="invalid_value")


def make_image_model(config: ImageConfig, observers: Sequence[Observer] = ()) -> ImageModel:
    """Return an image model as the configuration has it; nothing is started."""
    folder = read_folder(config.folder, config.engine)
    return ImageModel(config, folder, ParallelPredictUtils(**runner_arguments(config, folder)), observers)
