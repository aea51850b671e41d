"""Configuration files: read, checked as a whole, and everything wrong in one error with lines and columns."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ascend_parallel.checks import check_file
from ascend_parallel.errors import ConfigError, UsageError

from .config import ServerConfig
from .config_checks import check_config
from .yaml_file import Problem, YamlFile, read_yaml

__all__ = ["read_checked", "read_config"]

#: Takes the settings and the folder of their files; returns the configuration, or None, and all problems.
Check = Callable[[Any, str], tuple[ServerConfig | None, list[Problem]]]


def read_config(path: str | os.PathLike[str]) -> ServerConfig:
    """Return the configuration that a YAML file describes; its paths are found from the file's folder.

    Raises:
        ConfigError: something is wrong in the file; has all of it, with lines and columns.
        UsageError: the file cannot be read.
    """
    return read_checked(path, check_config)[1]


def read_checked(path: str | os.PathLike[str], check: Check) -> tuple[Any, ServerConfig]:
    """Return the settings as the file has them, and the configuration that a check makes of them; raises likewise."""
    name = os.fspath(path)
    check_file("configuration file", name)
    try:
        file = read_yaml(Path(name).read_bytes())
    except OSError as error:
        raise UsageError(f"the configuration file {name} cannot be read: {error.strerror}") from None
    config = None
    if file.data is not None or not file.problems:
        config = _check(file, check, os.path.dirname(name))
    if file.problems or config is None:
        raise ConfigError(_in_lines(name, file))
    return file.data, config


def _check(file: YamlFile, check: Check, folder: str) -> ServerConfig | None:
    config, problems = check(file.data, folder)
    file.problems += [problem for problem in problems if problem.path not in file.unread]
    return config


def _in_lines(name: str, file: YamlFile) -> list[str]:
    """Return the problems as ``config.yml:12:7: ...``, in the order of the file."""
    placed = []
    for problem in file.problems:
        place = problem.place or file.find(problem.path, key=problem.at_key)
        placed.append((place, problem.message))
    return [f"{name}:{place.line}:{place.column}: {message}" for place, message in sorted(placed)]
