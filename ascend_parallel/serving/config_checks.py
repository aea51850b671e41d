"""All checks of a configuration, each problem with the path of the setting that it is about.

:func:`check_config` is for files and for the command line alike. Everything wrong is found at once: settings that are
not valid are left out, and the rest is checked on.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ascend_parallel.checks import check_writable
from ascend_parallel.errors import UsageError
from ascend_parallel.pipelines.config import RESERVED_SERVICES, PipelineConfig
from ascend_parallel.pipelines.config_checks import check_graph, check_op

from .config import ServerConfig, ServerSettings
from .credentials import check_tls, read_token
from .image_checks import ImageCheck
from .image_config import ImageConfig
from .model_checks import ModelCheck
from .model_config import ModelConfig, Settings
from .words import Path, describe_schema, describe_value, dotted, find_schema, list_keys, suggest
from .yaml_file import Problem

__all__ = ["check_config", "check_settings", "make_schema"]

Item = TypeVar("Item", bound=Settings)
#: Settings that are there after a check even where they are not in the data: they are derived.
_DERIVED = ("name",)
#: The last but one part of a path to an item of a list that is never left out.
_KEPT_LISTS = (("models",), ("pipelines",), ("ops",), ("images",))
#: What pydantic calls these errors.
_UNKNOWN, _MISSING, _NO_TEXT = "extra_forbidden", "missing", "string_type"


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
    models = {number: model.relative_to(folder) for number, model in _valid(valid, "models", ModelConfig)}
    for number, model in models.items():
        problems += ModelCheck(("models", number), model).run()
    pipelines = dict(_valid(valid, "pipelines", PipelineConfig))
    for number, pipeline in pipelines.items():
        problems += _check_pipeline(("pipelines", number), pipeline, folder, problems)
    named: dict[Path, ModelConfig | PipelineConfig] = {("models", number): model for number, model in models.items()}
    named |= {("pipelines", number): pipeline for number, pipeline in pipelines.items()}
    images = {number: image.relative_to(folder) for number, image in _valid(valid, "images", ImageConfig)}
    for number, image in images.items():
        problems += ImageCheck(("images", number), image).run()
    problems += [*_check_names(named), *_check_image_names(named, images), *_check_services(pipelines)]
    if not problems and not named and not images:
        message = "the configuration has neither models nor pipelines nor images; expected at least one"
        problems.append(Problem((), message))
    if problems:
        return None, problems
    sections = {
        "models": list(models.values()),
        "pipelines": [pipeline.relative_to(folder) for pipeline in pipelines.values()],
        "images": list(images.values()),
    }
    return ServerConfig.model_construct(**{**dict(settings), **sections}), []


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
        found = [(_path_in(data, details), details) for details in error.errors(include_url=False)]
        seen = set()
        for path, details in found:
            is_branch = len(path) < len(details["loc"])
            if is_branch and any(len(other) > len(path) and other[: len(path)] == path for other, _ in found):
                continue  # of "text or a list of text" it is the list; what is wrong in it is told
            if path not in seen:
                seen.add(path)
                yield Problem(path, _describe(path, details), at_key=details["type"] == _UNKNOWN)


def _path_in(data: Any, details: ErrorDetails) -> Path:
    """Return an error's place as a path: without the names of types that pydantic adds."""
    path: list[str | int] = []
    loc = details["loc"]
    missing = loc[-1:] if details["type"] == _MISSING else ()
    for part in loc[: len(loc) - len(missing)]:
        if part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int):
            data = data[part]
            path.append(part)
        elif part in _DERIVED:
            path.append(part)
    return (*path, *missing)


def _describe(path: Path, details: ErrorDetails) -> str:
    root = make_schema()
    if details["type"] == _UNKNOWN:
        known = list_keys(root, path[:-1])
        return f"{_name(path[:-1])} has the unknown key {path[-1]!r}; {suggest(str(path[-1]), known)}"
    schema = find_schema(root, path)
    if details["type"] == _MISSING:
        what = schema["description"].partition(". ")[0].rstrip(".")
        return f"{_name(path[:-1])} has no {path[-1]}; expected {what[0].lower()}{what[1:]}"
    expected = describe_schema(root, schema)
    hint = "; put it into quotes" if details["type"] == _NO_TEXT and _is_in_quotes(details["input"], schema) else ""
    return f"{_name(path)} is {describe_value(details['input'])}; expected {expected}{hint}"


def _is_in_quotes(value: object, schema: Mapping[str, Any]) -> bool:
    """Whether a value is a number that would be right as text."""
    is_number = isinstance(value, int | float)
    if "anyOf" in schema:
        return is_number and "patternErrorMessage" not in schema
    return is_number and re.search(schema.get("pattern", ""), str(value)) is not None


def _name(path: Path) -> str:
    return dotted(path) or "the configuration"


def _leave_out(data: Any, paths: Iterable[Path]) -> Any:
    """Return the data without what is wrong in it.

    A list is left out as a whole, but for those of models, pipelines, ops and images: what is none of them at all stays
    there, and is passed over.
    """
    data = copy.deepcopy(data)
    for path in paths:
        if path[-2:-1] not in _KEPT_LISTS:
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


def _valid(data: Any, section: str, kind: type[Item]) -> Iterator[tuple[int, Item]]:
    """Yield the items of a section that are valid, each with its number."""
    items = data.get(section) if isinstance(data, dict) else None
    for number, item in enumerate(items if isinstance(items, list) else []):
        try:
            yield number, kind.model_validate(item)
        except ValidationError:  # it has been reported
            continue


# ---- what goes beyond


def _check_pipeline(path: Path, pipeline: PipelineConfig, folder: str, known: Iterable[Problem]) -> Iterator[Problem]:
    wrong = [problem.path for problem in known]
    for number, op in enumerate(pipeline.ops):
        inner = (*path, "ops", number)
        is_whole = not any(each[: len(inner)] == inner for each in wrong)
        # What is missing in an op may be what is wrong in it.
        yield from (problem for problem in check_op(inner, op, folder) if is_whole or problem.path != inner)
    if not any(each[: len(path)] == path for each in wrong):  # else what it says of names may be no news
        yield from check_graph(path, pipeline)


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


def _check_names(models: Mapping[Path, ModelConfig | PipelineConfig]) -> Iterator[Problem]:
    first: dict[tuple[str, str], Path] = {}
    for path, model in models.items():
        same = first.setdefault((model.name, model.version), path)
        if same != path:
            message = f"{dotted(path)} has the name {model.name!r} and the version {model.version!r}, as "
            yield Problem((*path, "name"), f"{message}{dotted(same)} has; expected another name or version")


def _check_image_names(
    others: Mapping[Path, ModelConfig | PipelineConfig], images: Mapping[int, ImageConfig]
) -> Iterator[Problem]:
    """Yield image models whose name, or that of a part, is another's."""
    taken = {model.name: path for path, model in others.items()}
    for number, image in images.items():
        path: Path = ("images", number)
        same = [name for name in image.names if name in taken]
        if same:
            message = f"{dotted(path)} has the name {image.name!r}, and {dotted(taken[same[0]])} has {same[0]!r}"
            yield Problem((*path, "name"), f"{message}; expected another name")
        taken |= dict.fromkeys(image.names, path)


def _check_services(pipelines: Mapping[int, PipelineConfig]) -> Iterator[Problem]:
    """Yield names of services for Paddle Serving's clients that cannot be told apart, or that other routes have."""
    first: dict[str, tuple[int, str]] = {}
    for number, pipeline in pipelines.items():
        name = pipeline.paddle_service
        if name is None:
            continue
        path: Path = ("pipelines", number, "paddle_service")
        other, owner = first.setdefault(name, (number, pipeline.name))
        if name in RESERVED_SERVICES:
            yield Problem(path, f"{dotted(path)} is {name!r}, with which other routes begin; choose another")
        elif owner != pipeline.name:
            yield Problem(path, f"{dotted(path)} is {name!r}, as that of pipelines[{other}] is; choose another")


def _problems(path: Path, check: Callable[[], object], prefix: str = "") -> Iterator[Problem]:
    """Yield what a check has to say."""
    try:
        check()
    except UsageError as error:
        yield Problem(path, prefix + str(error))
