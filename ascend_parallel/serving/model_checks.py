"""The runner's own checks of a model, each with the setting that it is about."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path as FilePath
from typing import Any, TypeVar

from ascend_parallel.checks import check_file, find_python
from ascend_parallel.devices import Device
from ascend_parallel.errors import UsageError
from ascend_parallel.files import read_arrays
from ascend_parallel.runner.options import (
    add_share_weights,
    check_batch_axes,
    check_files,
    check_manifests,
    check_options,
    check_workers,
    choose_devices,
    choose_engine,
)
from ascend_parallel.runner.runner import ParallelPredictUtils
from ascend_parallel.worker.engines import Engine

from .model_config import ModelConfig, Settings
from .words import Path, dotted
from .yaml_file import Problem

__all__ = ["ModelCheck", "SettingsCheck"]

Result = TypeVar("Result")
_FIRST_WORD = re.compile(r"[a-z_]+(?=[ =])")


class SettingsCheck:
    """Checks that raise UsageError, made into problems with the path of the setting that they are about."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._settings = type(settings).model_fields
        self._problems: list[Problem] = []

    def _add(self, setting: str, message: str) -> None:
        """Note a problem; the message has no subject."""
        path = (*self._path, setting)
        self._problems.append(Problem(path, f"{dotted(path)} {message}"))

    def _try(self, setting: str, check: Callable[[], Result], *inner: str | int) -> Result | None:
        """Return what a check returns; None if it has found something, which is noted."""
        try:
            return check()
        except UsageError as error:
            message = str(error)
            named = _FIRST_WORD.match(message)
            if named and named[0] in self._settings:  # it is about this one
                path: Path = (*self._path, named[0])
                message = f"{dotted(self._path)}.{message}"
            else:
                path = (*self._path, setting, *inner)
                message = f"{dotted(path)}: {message}"
            self._problems.append(Problem(path, message))
            return None

    def _choose_engine(self, path: str, name: str | None) -> type[Engine] | None:
        """Return a model's engine, by its name or else by the model's path; None where there is none."""
        return self._try("path" if name is None else "engine", lambda: choose_engine([path], name))

    def _check_engine_options(self, engine: type[Engine], options: Mapping[str, Any]) -> None:
        """Check each option by itself, so that a problem names its place."""
        for name, value in options.items():
            self._try("engine_options", partial(check_options, engine, {name: value}), name)


class ModelCheck(SettingsCheck):
    """The checks of a model."""

    def __init__(self, path: Path, model: ModelConfig) -> None:
        super().__init__(path, model)
        self._model = model

    def run(self) -> list[Problem]:
        """Return all problems."""
        model = self._model
        self._check_own_files()
        engine = self._choose_engine(model.path, model.engine)
        if engine is not None:
            self._check_with_engine(engine)
        if not self._problems:  # whatever else the runner checks
            self._try("path", lambda: ParallelPredictUtils(**model.runner_arguments()))
        return self._problems

    def _check_own_files(self) -> None:
        model = self._model
        if model.source_file:
            self._try("path", lambda: check_file("file", model.source_file, f" for the model {model.path}"))
        for number, path in enumerate(model.warmup_examples):
            self._try("warmup_examples", partial(read_arrays, "warm-up example", FilePath(path)), number)
        self._try("batch_axes", lambda: check_batch_axes(model.batch_axes))
        self._try("worker_python", lambda: find_python(model.worker_python))

    def _check_with_engine(self, engine: type[Engine]) -> None:
        model = self._model
        restarts = model.runner_arguments()["max_restarts"]
        self._try(
            "workers",
            lambda: check_workers(
                model.workers, engine, model.worker_python, model.share_weights, model.max_retries, restarts
            ),
        )
        self._try("path", lambda: check_files([model.path], engine))
        self._check_engine_options(engine, model.engine_options)
        devices = self._try("devices", lambda: choose_devices(model.devices, None, engine))
        if devices is not None and not self._problems:
            self._check_with_devices(engine, devices)

    def _check_with_devices(self, engine: type[Engine], devices: list[Device]) -> None:
        model = self._model
        options = model.engine_options
        self._try(
            "share_weights", lambda: add_share_weights(options, model.share_weights, engine, [model.path], devices)
        )
        self._try("path", lambda: check_manifests({"": model.path}, devices, engine))
