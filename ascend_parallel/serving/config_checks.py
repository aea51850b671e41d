"""All checks of a configuration, each problem with the path of the setting that it is about.

:func:`check_config` is for files and for the command line alike. Everything wrong is found at once: settings that are
not valid are left out, and the rest is checked on.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ascend_parallel.checks import check_file, check_writable, find_python
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

from .config import ServerConfig, ServerSettings
from .credentials import check_tls, read_token
from .model_config import ModelConfig
from .words import Path, describe_schema, describe_value, dotted, find_schema, list_keys, suggest
from .yaml_file import Problem

__all__ = ["check_config", "check_settings", "make_schema"]

Result = TypeVar("Result")
#: Settings that are there after a check even where they are not in the data: they are required, or derived.
_REQUIRED = ("models", "path", "name")
_FIRST_WORD = re.compile(r"[a-z_]+(?=[ =])")
#: What pydantic calls these errors.
_UNKNOWN, _NO_TEXT = "extra_forbidden", "string_type"


@cache
def make_schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file."""
    schema = _join_lines(ServerConfig.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _join_lines(schema: Any) -> Any:
    """Return a schema with descriptions of one line; docstrings have several."""
    if isinstance(schema, dict):
        return {key: _join_lines(value) for key, value in schema.items()}
    return " ".join(schema.split()) if isinstance(schema, str) else schema


def check_config(data: Any, folder: str = "") -> tuple[ServerConfig | None, list[Problem]]:
    """Check a whole configuration.

    Args:
        data: the settings, as a file has them.
        folder: what files are relative to; "" is the working directory.

    Returns:
        The configuration with its files found from the folder, or None if anything is wrong; and all problems.
    """
    problems = list(_check_form(data))
    valid = _leave_out(data, [problem.path for problem in problems])
    settings, more = check_settings(valid, folder)
    problems += more
    models = dict(_valid_models(valid, folder))
    for number, model in models.items():
        problems += _ModelCheck(("models", number), model).run()
    problems += _check_names(models)
    if problems:
        return None, problems
    return ServerConfig.model_construct(**dict(settings), models=list(models.values())), []


def check_settings(data: Any, folder: str = "") -> tuple[ServerSettings, list[Problem]]:
    """Return the valid settings of a server beside its models, and what is wrong with the others."""
    own = {name: data[name] for name in ServerSettings.model_fields if name in data} if isinstance(data, dict) else {}
    problems = list(_check_form(own, ServerSettings))
    settings = ServerSettings.model_validate(_leave_out(own, [problem.path for problem in problems]))
    settings = settings.relative_to(folder)
    return settings, [*problems, *_check_server(settings)]


# ---- names, types and ranges


def _check_form(data: Any, kind: type[ServerSettings] = ServerConfig) -> Iterator[Problem]:
    try:
        kind.model_validate(data)
    except ValidationError as error:
        found = [(_path_in(data, details["loc"]), details) for details in error.errors(include_url=False)]
        seen = set()
        for path, details in found:
            is_branch = len(path) < len(details["loc"])
            if is_branch and any(len(other) > len(path) and other[: len(path)] == path for other, _ in found):
                continue  # of "text or a list of text" it is the list; what is wrong in it is told
            if path not in seen:
                seen.add(path)
                yield Problem(path, _describe(path, details), at_key=details["type"] == _UNKNOWN)


def _path_in(data: Any, loc: tuple[str | int, ...]) -> Path:
    """Return an error's place as a path: without the names of types that pydantic adds."""
    path: list[str | int] = []
    for part in loc:
        if part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int):
            data = data[part]
            path.append(part)
        elif part in _REQUIRED:
            path.append(part)
    return tuple(path)


def _describe(path: Path, details: ErrorDetails) -> str:
    root = make_schema()
    if details["type"] == _UNKNOWN:
        known = list_keys(root, path[:-1])
        return f"{_name(path[:-1])} has the unknown key {path[-1]!r}; {suggest(str(path[-1]), known)}"
    schema = find_schema(root, path)
    if details["type"] == "missing":
        what = schema["description"].partition(". ")[0].rstrip(".")
        return f"{_name(path[:-1])} has no {path[-1]}; expected {what[0].lower()}{what[1:]}"
    expected = describe_schema(root, schema)
    hint = "; put it into quotes" if details["type"] == _NO_TEXT and _is_number(details["input"]) else ""
    return f"{_name(path)} is {describe_value(details['input'])}; expected {expected}{hint}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _name(path: Path) -> str:
    return dotted(path) or "the configuration"


def _leave_out(data: Any, paths: Iterable[Path]) -> Any:
    """Return the data without what is wrong in it; a list is left out as a whole, but for the list of models."""
    data = copy.deepcopy(data)
    for path in paths:
        if path[:1] != ("models",) or len(path) != 2:  # what is no model at all stays, and is passed over
            while path and isinstance(path[-1], int):
                path = path[:-1]
            _remove(data, path)
    return data


def _remove(data: Any, path: Path) -> None:
    for part in path[:-1]:
        is_there = part in data if isinstance(data, dict) else isinstance(data, list)
        if not is_there:
            return  # it has been removed with what it was in
        data = data[part]
    if path and isinstance(data, dict):
        data.pop(path[-1], None)


def _valid_models(data: Any, folder: str) -> Iterator[tuple[int, ModelConfig]]:
    models = data.get("models") if isinstance(data, dict) else None
    for number, model in enumerate(models if isinstance(models, list) else []):
        try:
            yield number, ModelConfig.model_validate(model).relative_to(folder)
        except ValidationError:  # it has been reported
            continue


# ---- what goes beyond


def _check_server(settings: ServerSettings) -> Iterator[Problem]:
    if settings.max_pending_bytes < settings.max_body_bytes:
        text = f"max_pending_bytes is {settings.max_pending_bytes}; expected at least max_body_bytes"
        yield Problem(("max_pending_bytes",), f"{text}, which is {settings.max_body_bytes}")
    if (settings.tls_cert is None) != (settings.tls_key is None):
        given, other = ("tls_cert", "tls_key") if settings.tls_key is None else ("tls_key", "tls_cert")
        yield Problem((given,), f"{given} is given and {other} is not; TLS needs both")
    elif settings.tls_cert is not None and settings.tls_key is not None:
        yield from _problems(("tls_cert",), lambda: check_tls(str(settings.tls_cert), str(settings.tls_key)))
    if settings.token_file is not None:
        yield from _problems(("token_file",), lambda: read_token(str(settings.token_file)))
    if settings.trace is not None:
        yield from _problems(("trace",), lambda: check_writable("trace", FilePath(str(settings.trace)), [".json"]))
    if settings.grpc_port == settings.port != 0:
        yield Problem(("grpc_port",), f"grpc_port is {settings.port}, as port is; expected another one")


def _check_names(models: Mapping[int, ModelConfig]) -> Iterator[Problem]:
    first: dict[tuple[str, str], int] = {}
    for number, model in models.items():
        same = first.setdefault((model.name, model.version), number)
        if same != number:
            message = f"models[{number}] has the name {model.name!r} and the version {model.version!r}, as "
            yield Problem(("models", number, "name"), f"{message}models[{same}] has; expected another name or version")


def _problems(path: Path, check: Callable[[], object], prefix: str = "") -> Iterator[Problem]:
    """Yield what a check has to say."""
    try:
        check()
    except UsageError as error:
        yield Problem(path, prefix + str(error))


class _ModelCheck:
    """The runner's own checks of a model, each with the setting that it is about."""

    def __init__(self, path: Path, model: ModelConfig) -> None:
        self._path = path
        self._model = model
        self._problems: list[Problem] = []

    def run(self) -> list[Problem]:
        """Return all problems."""
        model = self._model
        self._check_own_files()
        engine = self._try(
            "path" if model.engine is None else "engine", lambda: choose_engine([model.path], model.engine)
        )
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
        for name, value in model.engine_options.items():
            self._try("engine_options", partial(check_options, engine, {name: value}), name)
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

    def _try(self, setting: str, check: Callable[[], Result], *inner: str | int) -> Result | None:
        """Return what a check returns; None if it has found something, which is noted."""
        try:
            return check()
        except UsageError as error:
            message = str(error)
            named = _FIRST_WORD.match(message)
            if named and named[0] in ModelConfig.model_fields:  # it is about this one
                path: Path = (*self._path, named[0])
                message = f"{dotted(self._path)}.{message}"
            else:
                path = (*self._path, setting, *inner)
                message = f"{dotted(path)}: {message}"
            self._problems.append(Problem(path, message))
            return None
