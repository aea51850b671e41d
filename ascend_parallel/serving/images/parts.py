"""The three models of a Stable Diffusion on one runner: a worker holds all of them, each has its own queue."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ascend_parallel.backends.backend import Backend
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.model import Model
from ascend_parallel.devices import Device
from ascend_parallel.diffusion.model_folder import MODELS, ModelFolder, find_models
from ascend_parallel.diffusion.stable_diffusion import StableDiffusion
from ascend_parallel.diffusion.tokenizer import ClipTokenizer
from ascend_parallel.errors import UsageError
from ascend_parallel.runner.runner import ParallelPredictUtils
from ascend_parallel.serving.batcher import Limits
from ascend_parallel.serving.image_config import ImageConfig
from ascend_parallel.serving.observed_batcher import Observer
from ascend_parallel.serving.served_model import ServedModel
from ascend_parallel.worker.engines import TensorSpec

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
#: The U-Net halves its latents three times, and a latent has eight pixels a side.
_SIDE = 64


def read_size(text: str) -> tuple[int, int]:
    """Return (width, height) of ``768x512``; raises UsageError."""
    match = _SIZE.fullmatch(text)
    if match is None or int(match[1]) % _SIDE or int(match[2]) % _SIDE:
        raise UsageError(f"{text!r} is no size; expected WIDTHxHEIGHT such as 768x512, multiples of {_SIDE}")
    return int(match[1]), int(match[2])


def read_folder(path: str, engine: str | None) -> ModelFolder:
    """Return the models of a folder, which an engine takes as they are; raises UsageError."""
    folder = find_models(Path(path), engine)
    if folder.needs_conversion:
        raise UsageError(
            f"{path} has only ONNX files, which the engine {folder.engine} does not take; convert them first: "
            f"scripts/convert_models.sh {path} OUT"
        )
    return folder


def runner_arguments(config: ImageConfig, folder: ModelFolder) -> dict[str, Any]:
    """Return the arguments of :class:`ascend_parallel.ParallelPredictUtils` for an image model."""
    return {
        "model": folder.files,
        "devices": config.devices,
        "engine": folder.engine,
        "engine_options": {**folder.engine_options, **config.engine_options},
        "worker_python": config.worker_python,
        "build_timeout_s": config.build_timeout_s,
        "predict_timeout_s": config.predict_timeout_s,
        # A server has to be there again, however often a worker dies.
        "max_restarts": sys.maxsize if config.max_restarts is None else config.max_restarts,
    }


class DiffusionRunner:
    """The runner of an image model, which its three models share: built with the first, closed with the last.

    Attributes:
        runner: what runs them.
        diffusion: what is computed between them; there once it is built.
        sizes: "WIDTHxHEIGHT" of a picture -> its latents' channels, height and width, the default first; empty before.
    """

    diffusion: StableDiffusion

    def __init__(
        self, runner: ParallelPredictUtils, folder: ModelFolder, tokenizer: ClipTokenizer, sizes: Sequence[str]
    ) -> None:
        """Take a runner of the three models of a folder, not built yet, and further sizes of pictures."""
        self.sizes: dict[str, tuple[int, int, int]] = {}
        self._further_sizes = sizes
        self.runner = runner
        self._folder = folder
        self._tokenizer = tokenizer
        self._building = threading.Lock()
        self._closing = threading.Lock()
        self._users = len(MODELS)
        self._error: BaseException | None = None

    def build(self) -> None:
        """Build the runner, or wait until another thread has built it; raises what that raised."""
        with self._building:
            if self._error is not None:
                raise self._error
            if self.sizes:
                return
            try:
                self.runner.build_model()
                specs = {name: model.inputs or [] for name, model in self.runner.models.items()}
                self.diffusion = StableDiffusion(self._folder, self._tokenizer, specs)
                self.sizes = self._find_sizes()
            except BaseException as error:
                self._error = error
                raise

    def close(self) -> None:
        """Close the runner when all three models are closed; a build that is going on ends."""
        with self._closing:
            self._users -= 1
            is_last = self._users <= 0  # fewer: a model that was closed before its build is closed once more
        if is_last:
            self.runner.close()

    def _find_sizes(self) -> dict[str, tuple[int, int, int]]:
        diffusion = self.diffusion
        own = diffusion.sizes.latent
        sizes = [(own[2] * diffusion.pixels_per_latent, own[1] * diffusion.pixels_per_latent)]
        sizes += map(read_size, self._further_sizes)
        if len(sizes) > 1 and not diffusion.is_size_open:
            raise UsageError(
                f"sizes has {self._further_sizes[0]!r}, but the models in {self._folder.path} are made for "
                f"{_show_size(sizes[0])} alone; leave sizes out, or export them with open sizes"
            )
        return {_show_size(size): diffusion.latent_of(*size) for size in sizes}


def _show_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


class RunnerPart:
    """One of the three models, as :class:`~ascend_parallel.serving.served_model.ServedModel` sees a runner."""

    def __init__(self, shared: DiffusionRunner, name: str) -> None:
        """Take the runner, and which of ``MODELS`` this is."""
        self._shared = shared
        self._name = name

    def build_model(self) -> None:
        """Build all three models, unless another part has done so."""
        self._shared.build()

    def close(self) -> None:
        """Close the runner, if this is the last part."""
        self._shared.close()

    def model_of_batches(self, max_rows: int | None = None) -> Model:
        """Return the model as it plans batches; all its inputs hold rows, but for a time step that all rows share."""
        model = self._shared.runner.model_of_batches(self._name, max_rows)
        model.batch_axes = self._shared.diffusion.batch_axes(self._name)
        return model

    async def predict_async(self, inputs: Mapping[str, Array]) -> Any:
        """Run this model, past the queue."""
        return await self._shared.runner.predict_async(inputs, model=self._name)

    def empty(self, shape: int | Sequence[int], dtype: Any) -> Array:
        """Return memory that is shared with the workers."""
        return self._shared.runner.empty(shape, dtype)

    def stats(self) -> dict[str, Any]:
        """Return what the workers did, for all three models."""
        return self._shared.runner.stats()

    @property
    def inputs(self) -> list[TensorSpec] | None:
        """The model's inputs."""
        return self._shared.runner.models[self._name].inputs

    @property
    def outputs(self) -> list[TensorSpec] | None:
        """The model's outputs."""
        return self._shared.runner.models[self._name].outputs

    @property
    def backend(self) -> Backend:
        """Who runs the tasks."""
        return self._shared.runner.backend

    @property
    def capacity(self) -> int:
        """Batches that are computed at the same time."""
        return self._shared.runner.capacity

    @property
    def devices(self) -> list[Device]:
        """Where it runs."""
        return self._shared.runner.devices

    @property
    def engine_name(self) -> str:
        """What runs it."""
        return self._shared.runner.engine_name


class PartModel(ServedModel):
    """One of the three models of an image model."""

    def __init__(
        self, image_model: str, name: str, shared: DiffusionRunner, limits: Limits, observers: Sequence[Observer]
    ) -> None:
        """Prepare; nothing is started.

        Args:
            image_model: the name of the image model.
            name: which of ``MODELS`` this is.
            shared: the runner of all three.
            limits: what its queue keeps to.
            observers: who is told of each request.
        """
        runner = RunnerPart(shared, name)
        super().__init__(f"{image_model}.{name}", "1", runner, limits=limits, observers=observers)
        self.part_of = image_model
        self.shows_workers = name == "unet"  # all three have the same
