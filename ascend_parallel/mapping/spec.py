"""Parsing and checking of the argument PIPELINE."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ascend_parallel.checks import check_file
from ascend_parallel.errors import UsageError
from ascend_parallel.runner.options import check_files, check_options, choose_engine
from ascend_parallel.worker.engines import ENGINES, Engine

__all__ = ["PipelineSpec", "read_pipeline"]

_EXPECTED = (
    "'module:factory', 'file.py:factory', 'paddlex:NAME_OR_CONFIG.yaml', 'paddleocr:ClassName', or an .onnx or "
    ".mindir file"
)


class PipelineSpec(NamedTuple):
    """A pipeline, as it is sent to workers.

    Attributes:
        model: what the engine opens.
        engine: "pipeline", "modelfile", or "modelfile-process".
        options: the engine's options, but for those of the run.
    """

    model: str
    engine: str
    options: dict[str, Any]


def read_pipeline(
    pipeline: str, engine: str | None, options: Mapping[str, Any], preprocess: str | None, postprocess: str | None
) -> PipelineSpec:
    """Return what workers are told of a pipeline; ``engine`` is that of a model file.

    Raises:
        UsageError: if the kind of pipeline is unknown, its file does not exist, or an option does not apply to it.
    """
    if not isinstance(pipeline, (str, os.PathLike)) or not os.fspath(pipeline):
        raise UsageError(f"the pipeline is {pipeline!r}; expected {_EXPECTED}")
    text = os.fspath(pipeline)
    if engine is not None or any(text.endswith(known.suffixes) for known in ENGINES.values()):
        return _read_model_file(text, choose_engine([text], engine), options, preprocess, postprocess)
    if preprocess or postprocess:
        raise UsageError(f"preprocess and postprocess are for model files; {text} does its own")
    library, colon, rest = text.rpartition(":")
    if not colon or not library or not rest:
        raise UsageError(f"the pipeline {text!r} is of an unknown kind; expected {_EXPECTED}")
    if library == "paddlex" and rest.endswith((".yaml", ".yml")):
        check_file("configuration file", rest, " for paddlex")
        text = f"paddlex:{os.path.abspath(rest)}"
    if library.endswith(".py"):
        check_file("file", library, f" for the pipeline {text}")
    return PipelineSpec(text, "pipeline", {"pipeline_options": _plain(options)})


def _read_model_file(
    path: str, engine: type[Engine], options: Mapping[str, Any], preprocess: str | None, postprocess: str | None
) -> PipelineSpec:
    if engine.name in ENGINES and not engine.suffixes:
        raise UsageError(f"the engine {engine.name} runs no model files; for a pipeline leave engine out")
    check_files([path], engine)
    for name, function in (("preprocess", preprocess), ("postprocess", postprocess)):
        if function is not None and not all(function.rpartition(":")[::2]):
            raise UsageError(f"{name} is {function!r}; expected 'module:function' or 'path/to/file.py:function'")
    told = {
        "pipeline_options": check_options(engine, options),
        "engine": engine.name,
        "preprocess": preprocess,
        "postprocess": postprocess,
    }
    model = os.path.abspath(path) if engine.suffixes else path
    return PipelineSpec(model, "modelfile" if engine.can_share else "modelfile-process", told)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(options, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in options):
        raise UsageError(f"options are {options!r}; expected a dict of keyword -> value for the pipeline's constructor")
    if "device" in options:
        raise UsageError("the option device is set for each worker: choose the devices with the argument devices")
    return dict(options)
