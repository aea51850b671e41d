"""Parsing and checking of the argument PIPELINE."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ascend_parallel.checks import check_file
from ascend_parallel.errors import UsageError
from ascend_parallel.runner.options import check_files, check_options, choose_engine
from ascend_parallel.worker.engines import ENGINES, Engine
from ascend_parallel.worker.pipelines.choices import SEPARATE

from .settings import MapSettings, read_formats

__all__ = ["PipelineSpec", "check_function_name", "read_pipeline"]

_EXPECTED = (
    "'module:factory', 'file.py:factory', 'paddlex:NAME_OR_CONFIG.yaml', 'paddleocr:ClassName', 'pipeline:CONFIG.yml', "
    "or an .onnx, .mindir or .om file"
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


def read_pipeline(settings: MapSettings) -> PipelineSpec:
    """Return what workers are told of the pipeline.

    Raises:
        UsageError: if the kind of pipeline is unknown, its file does not exist, or an option does not apply to it.
    """
    pipeline = settings.pipeline
    if not isinstance(pipeline, (str, os.PathLike)) or not os.fspath(pipeline):
        raise UsageError(f"the pipeline is {pipeline!r}; expected {_EXPECTED}")
    text = os.fspath(pipeline)
    if settings.engine is not None or any(text.endswith(known.suffixes) for known in ENGINES.values()):
        return _read_model_file(text, choose_engine([text], settings.engine), settings)
    for name in ("preprocess", "postprocess", "share_weights"):
        if getattr(settings, name):
            raise UsageError(f"{name} goes with model files only, and {text} is a pipeline: leave {name} out")
    library, colon, rest = text.rpartition(":")
    if not colon or not library or not rest:
        raise UsageError(f"the pipeline {text!r} is of an unknown kind; expected {_EXPECTED}")
    if library == "paddlex" and rest.endswith((".yaml", ".yml")):
        check_file("configuration file", rest, " for paddlex")
        text = f"paddlex:{os.path.abspath(rest)}"
    if library.endswith(".py"):
        check_file("file", library, f" for the pipeline {text}")
    told: dict[str, Any] = {"pipeline_options": _plain("options", "constructor", settings.options or {})}
    predict_options = _plain("predict_options", "predict", settings.predict_options or {})
    told |= {"predict_options": predict_options} if predict_options else {}
    told |= {"pages": settings.pages} if settings.pages != SEPARATE else {}
    told |= {"save": read_formats(settings.save)} if settings.save is not None else {}
    return PipelineSpec(text, "pipeline", told)


def _read_model_file(path: str, engine: type[Engine], settings: MapSettings) -> PipelineSpec:
    if engine.name in ENGINES and not engine.suffixes:
        raise UsageError(f"the engine {engine.name} runs no model files; for a pipeline leave engine out")
    for name, given in (
        ("predict_options", settings.predict_options),
        ("pages", settings.pages != SEPARATE),
        ("save", settings.save),
    ):
        if given:
            raise UsageError(f"{name} goes with pipelines only, and {path} is a model file: leave {name} out")
    check_files([path], engine)
    functions = {"preprocess": settings.preprocess, "postprocess": settings.postprocess}
    for name, function in functions.items():
        check_function_name(name, function)
    options = check_options(engine, settings.options or {})
    model = os.path.abspath(path) if engine.suffixes else path
    told = {"pipeline_options": options, "engine": engine.name, **functions}
    return PipelineSpec(model, "modelfile" if engine.can_share else "modelfile-process", told)


def check_function_name(name: str, function: str | None) -> None:
    """Check that an argument is ``module:function``, or None; raises UsageError."""
    if function is not None and not all(function.rpartition(":")[::2]):
        raise UsageError(f"{name} is {function!r}; expected 'module:function' or 'path/to/file.py:function'")


def _plain(argument: str, taker: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(options, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in options):
        raise UsageError(f"{argument} is {options!r}; expected a dict of keyword -> value for the pipeline's {taker}")
    if "device" in options:
        raise UsageError("the option device is set for each worker: choose the devices with the argument devices")
    if taker == "predict" and "input" in options:
        raise UsageError("predict_options has 'input', but the input is the files: leave it out")
    return dict(options)
