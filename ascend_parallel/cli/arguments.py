"""Arguments that several commands share, and how their text is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ascend_parallel.errors import UsageError

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A .mindir or .onnx file, or module:factory (or file.py:factory).")
]
Devices = Annotated[
    str | None,
    typer.Option(help="Such as ascend:0,1, gpu:0-3 or cpu:0,1; by default all of the machine's best type."),
]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="mslite, onnxruntime, callable, simulated or package.module:EngineClass; by default by suffix.",
    ),
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option", metavar="NAME=VALUE", help="An option of the engine, such as threads=2; repeatable."
    ),
]
WorkerPython = Annotated[
    Path | None, typer.Option(help="The workers' Python, where the engine needs another than this one.")
]
ShareWeights = Annotated[
    bool,
    typer.Option("--share-weights", help="CPU workers map one set of weights, kept prepared in the user's cache."),
]


def read_options(texts: Sequence[str] | None, option: str = "--engine-option") -> dict[str, Any]:
    """Read ``NAME=VALUE`` texts; values are YAML: ``2``, ``true``, ``{a: 1}`` or plain words.

    Raises:
        UsageError: a text has no ``=``, or its value is not YAML.
    """
    import yaml

    options = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {text!r} is not of the form NAME=VALUE")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"{option} {name} has the value {value!r}, which is not YAML") from None
    return options


def read_batch_axes(texts: Sequence[str] | None) -> dict[str, int | None]:
    """Read ``NAME=AXIS`` texts; the axis is a number, or ``none``.

    Raises:
        UsageError: a text is not of that form.
    """
    axes: dict[str, int | None] = {}
    for text in texts or ():
        name, _, axis = text.rpartition("=")
        if not name or not (axis.lower() == "none" or axis.lstrip("-").isdigit()):
            raise UsageError(f"--batch-axis {text!r} is not of the form NAME=AXIS, AXIS a number or none")
        axes[name] = None if axis.lower() == "none" else int(axis)
    return axes
