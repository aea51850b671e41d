"""Opens pipelines: callables that turn a list of files into results.

``module:factory`` or ``path/to/file.py:factory`` is called once in the worker, with ``device="gpu:1"`` and the user's
options as keyword arguments. It returns an object with a ``predict`` method, or a callable. That is called with a list
of paths and returns one result per path, as a list or a generator. ``paddlex:NAME_OR_CONFIG.yaml`` and
``paddleocr:ClassName`` are opened with these libraries, which the worker's interpreter must have.
"""

from __future__ import annotations

import difflib
import gc
import importlib
import os
import sys
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from ..engines.callable import find_predict, load_object
from .choices import SEPARATE
from .keywords import with_keywords
from .paddle_threads import paddleocr_keywords, paddlex_keywords
from .pages import arrange_pages

#: A callable that gets a list of paths and returns the results.
Pipeline = Callable[[List[str]], Iterable[Any]]

#: Paths with these prefixes are not files of this machine.
_URL_BEGINNINGS = ("http://", "https://")


def open_pipeline(
    spec: str,
    device: Tuple[str, int],
    options: Dict[str, Any],
    predict_options: Optional[Dict[str, Any]] = None,
    pages: str = SEPARATE,
) -> Pipeline:
    """Return the pipeline that ``spec`` names, built on a device.

    Args:
        spec: see above.
        device: type and number.
        options: keyword arguments of the constructor.
        predict_options: keyword arguments of ``predict``.
        pages: what becomes of the pages of a document: see :mod:`.pages`.

    Raises:
        ImportError, AttributeError, TypeError: if it does not exist, is not a pipeline, or does not take the options;
            the message says what is missing.
    """
    library, _, name = spec.partition(":")
    keywords = predict_options or {}
    if library in _OPENERS:
        pipeline = _OPENERS[library](name, device, options)
        # PaddleX's outer pipeline passes everything on to the inner one.
        inner = getattr(pipeline, "_pipeline", pipeline)
        predict = refuse_missing(with_keywords(pipeline.predict, keywords, spec, inner.predict, strict=True))
    else:
        pipeline = load_object(spec)(device="%s:%d" % device, **options)
        predict = check_results(with_keywords(find_predict(pipeline, spec), keywords, spec), spec)
    return arrange_pages(pipeline, predict, pages, spec)  # type: ignore[no-any-return]


def open_paddlex(name: str, device: Tuple[str, int], options: Dict[str, Any]) -> Any:
    """Return a PaddleX pipeline by its name, or by the path of its configuration."""
    library = import_library("paddlex")
    return library.create_pipeline(device=paddle_device(device), **paddlex_keywords(library, name, options))


def open_paddleocr(name: str, device: Tuple[str, int], options: Dict[str, Any]) -> Any:
    """Return an instance of a PaddleOCR class."""
    library = import_library("paddleocr")
    if not hasattr(library, name):
        matches = difflib.get_close_matches(name, [word for word in dir(library) if word[:1].isupper()], n=1)
        hint = "; did you mean paddleocr:%s?" % matches[0] if matches else ""
        raise AttributeError("paddleocr has no class %r%s" % (name, hint))
    return getattr(library, name)(device=paddle_device(device), **paddleocr_keywords(options))


_OPENERS = {"paddlex": open_paddlex, "paddleocr": open_paddleocr}


def import_library(name: str) -> Any:
    """Import PaddleX or PaddleOCR; the error of a missing library says what to install."""
    try:
        library = importlib.import_module(name)
        gc.freeze()  # else the interpreter's exit collects all of it three times: 0.2 s
        return library
    except ImportError as error:
        if getattr(error, "name", "") != name:
            raise
        raise ImportError(
            "%s is not installed for %s; run `%s -m pip install %s` (and paddlepaddle, or onnxruntime with models in "
            "that form), or name an interpreter that has it with worker_python"
            % (name, sys.executable, sys.executable, name)
        ) from error


def paddle_device(device: Tuple[str, int]) -> str:
    """Return a device's name in Paddle: ``"cpu"`` (which takes no number there), ``"gpu:1"``, ``"npu:0"``."""
    kind, number = device
    return "cpu" if kind == "cpu" else "%s:%d" % ("npu" if kind == "ascend" else kind, number)


def refuse_missing(predict: Pipeline) -> Pipeline:
    """Return a pipeline that raises for missing files: Paddle returns no result for them, and no error."""

    def checked(paths: List[str]) -> Iterable[Any]:
        for path in paths:
            if not path.startswith(_URL_BEGINNINGS) and not os.path.exists(path):
                raise FileNotFoundError("there is no file %s" % path)
        return predict(paths)

    return checked


def check_results(predict: Pipeline, spec: str) -> Pipeline:
    """Return a pipeline that raises unless its results are iterable, one per file."""

    def checked(paths: List[str]) -> Iterable[Any]:
        results = predict(paths)
        if isinstance(results, (dict, str, bytes)) or not hasattr(results, "__iter__"):
            raise TypeError(
                "%s returned a %s for a list of %d files; expected a list or a generator with one result per file"
                % (spec, type(results).__name__, len(paths))
            )
        return results

    return checked
