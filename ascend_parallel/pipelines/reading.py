"""Pipelines read from files and from settings, checked as a whole."""

from __future__ import annotations

import os
from typing import Any

from ascend_parallel.errors import UsageError
from ascend_parallel.serving.config_checks import check_config
from ascend_parallel.serving.config_file import read_config

from .config import PipelineConfig


def read_pipeline(path: str | os.PathLike[str], name: str | None = None) -> PipelineConfig:
    """Return a pipeline of a configuration file.

    Args:
        path: the file.
        name: which one; None: the only one.

    Raises:
        ConfigError: something is wrong in the file.
        UsageError: the file cannot be read, or has no such pipeline.
    """
    pipelines = read_config(path).pipelines
    found = [pipeline for pipeline in pipelines if name in (None, pipeline.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(pipeline.name for pipeline in pipelines) or "none"
    if name is None and found:
        raise UsageError(f"{os.fspath(path)} has several pipelines, {names}; say which one: name=...")
    wanted = "no pipeline" if name is None else f"no pipeline {name!r}"
    raise UsageError(f"{os.fspath(path)} has {wanted}; it has: {names}")


def check_pipeline(settings: dict[str, Any]) -> PipelineConfig:
    """Return a pipeline of these settings; raises UsageError with all that is wrong."""
    config, problems = check_config({"pipelines": [settings]})
    if config is None:
        raise UsageError("\n".join(problem.message.replace("pipelines[0].", "") for problem in problems))
    return config.pipelines[0]
