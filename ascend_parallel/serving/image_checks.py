"""The checks of an image model, each with the setting that it is about; nothing is started."""

from __future__ import annotations

from functools import partial

from ascend_parallel.checks import check_installed, find_python
from ascend_parallel.diffusion.model_folder import ModelFolder
from ascend_parallel.errors import UsageError
from ascend_parallel.runner.options import choose_devices, choose_engine
from ascend_parallel.runner.runner import ParallelPredictUtils

from .image_config import ImageConfig
from .images.parts import read_folder, read_size, runner_arguments
from .model_checks import SettingsCheck
from .words import Path
from .yaml_file import Problem

__all__ = ["ImageCheck"]

_INSTALL = "pip install 'ascend-parallel[sd]'"


class ImageCheck(SettingsCheck):
    """The checks of an image model."""

    def __init__(self, path: Path, model: ImageConfig) -> None:
        super().__init__(path, model)
        self._model = model

    def run(self) -> list[Problem]:
        """Return all problems."""
        model = self._model
        for module in ("tokenizers", "PIL"):
            self._try("folder", partial(check_installed, "it", module, _INSTALL))
        self._try("worker_python", lambda: find_python(model.worker_python))
        for number, size in enumerate(model.sizes):
            self._try("sizes", partial(read_size, size), number)
        self._check_limit("steps", "max_steps")
        self._check_limit("max_pictures", "max_queue_size")
        folder = self._try("folder", lambda: read_folder(model.folder, model.engine))
        if folder is not None:
            self._check_folder(folder)
        return self._problems

    def _check_limit(self, name: str, limit_name: str) -> None:
        value, limit = getattr(self._model, name), getattr(self._model, limit_name)
        if value > limit:
            self._add(name, f"is {value}; expected at most {limit_name}, which is {limit}")

    def _check_folder(self, folder: ModelFolder) -> None:
        model = self._model
        engine = choose_engine([str(file) for file in folder.files.values()], folder.engine)
        self._try("folder", folder.read_tokenizer)
        self._try("max_steps", lambda: _check_steps(folder, model.max_steps))
        self._try("devices", lambda: choose_devices(model.devices, None, engine))
        self._check_engine_options(engine, model.engine_options)
        if not self._problems:  # whatever else the runner checks
            self._try("folder", lambda: ParallelPredictUtils(**runner_arguments(model, folder)))


def _check_steps(folder: ModelFolder, steps: int) -> None:
    sampler = folder.read_sampler()
    try:
        sampler.set_timesteps(steps)
    except ValueError as error:
        raise UsageError(f"max_steps is {steps}, which the sampler of {folder.path} does not do: {error}") from None
