"""Parsing and checking of the argument PIPELINE."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ascend_parallel.errors import UsageError
from ascend_parallel.runner.options import check_files, check_options
from ascend_parallel.worker.engines import ENGINES

__all__ = ["PipelineSpec", "read_pipeline"]

_EXPECTED = (
    "'module:factory', 'file.py:factory', 'paddlex:NAME_OR_CONFIG.yaml', 'paddleocr:ClassName', or an .onnx or "
    ".mindir file"
)


class PipelineSpec(NamedTuple):
    """A pipeline, as it is sent to workers.

    Attributes:
        model: what the engine opens.
        engine: "pipeline" or "modelfile".
        options: the engine's options, without those of the run.
    """

    model: str
    engine: str
    options: dict[str, Any]


def read_pipeline(
    pipeline: str, options: Mapping[str, Any], preprocess: str | None, postprocess: str | None
) -> PipelineSpec:
    """Parse a pipeline specification.

    Raises:
        UsageError: if the kind of pipeline is unknown, its file does not exist, or an option does not apply to it.
    """
    if not isinstance(pipeline, (str, os.PathLike)) or not os.fspath(pipeline):
        raise UsageError(f"the pipeline is {pipeline!r}; expected {_EXPECTED}")
    text = os.fspath(pipeline)
    for name, engine in ENGINES.items():
        if engine.suffixes and text.endswith(engine.suffixes):
            return _read_model_file(text, name, options, preprocess, postprocess)
    if preprocess or postprocess:
        raise UsageError(f"preprocess and postprocess are for model files, but {text} is a pipeline: leave them out")
    library, colon, name = text.rpartition(":")
    if not colon or not library or not name:
        raise UsageError(f"the pipeline {text!r} is of an unknown kind; expected {_EXPECTED}")
    if library == "paddlex" and name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UsageError(f"there is no configuration file {name} (in {Path.cwd()}) for paddlex")
        text = f"paddlex:{os.path.abspath(name)}"
    if library.endswith(".py") and not Path(library).is_file():
        raise UsageError(f"there is no file {library} (in {Path.cwd()}) for the pipeline {text}")
    return PipelineSpec(text, "pipeline", {"pipeline_options": _plain(options)})


def _read_model_file(
    path: str, engine: str, options: Mapping[str, Any], preprocess: str | None, postprocess: str | None
) -> PipelineSpec:
    check_files([path], ENGINES[engine])
    for name, function in (("preprocess", preprocess), ("postprocess", postprocess)):
        if function is not None and not all(function.rpartition(":")[::2]):
            raise UsageError(f"{name} is {function!r}; expected 'module:function' or 'path/to/file.py:function'")
    engine_options = {
        "pipeline_options": check_options(ENGINES[engine], options),
        "engine": engine,
        "preprocess": preprocess,
        "postprocess": postprocess,
    }
    return PipelineSpec(os.path.abspath(path), "modelfile", engine_options)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(options, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in options):
        raise UsageError(f"options are {options!r}; expected a dict of keyword -> value for the pipeline's constructor")
    if "device" in options:
        raise UsageError("the option device is set for each worker: choose the devices with the argument devices")
    return dict(options)
