"""Arguments that several commands share, and the parsing of their text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ascend_parallel.errors import UsageError

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A .mindir, .onnx or .om file, or module:factory (or file.py:factory).")
]
Devices = Annotated[
    str | None,
    typer.Option(
        help="Devices, such as ascend:0,1, gpu:0-3, tensorrt:0, cpu:0,1 or openvino:0. [default: all devices of the "
        "machine's best type]"
    ),
]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="mslite, onnxruntime, callable, simulated or package.module:EngineClass. [default: by the model's suffix]",
    ),
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option("--engine-option", metavar="NAME=VALUE", help="Option of the engine, such as threads=2; repeatable."),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="fp32, fp16, bf16 or int8: what the model is computed in. What an engine cannot do is refused. [default: "
        "what the model's file and the engine's defaults make it]"
    ),
]
Workers = Annotated[
    str,
    typer.Option(
        help="processes: one worker process per device. threads: threads of this process, which copy nothing; a "
        "crash of the engine ends this process."
    ),
]
WorkerPython = Annotated[
    Path | None, typer.Option(help="Python interpreter of the workers, if the engine needs another one.")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ray[=ADDRESS]",
        help="Run on the hosts of a Ray cluster: the one at ADDRESS, or the one that Ray finds. --devices is a type "
        "then, such as ascend:*.",
    ),
]
NumDevices = Annotated[
    int | None, typer.Option(help="With --cluster: how many devices, over all hosts. [default: all]")
]
ShareWeights = Annotated[
    bool,
    typer.Option("--share-weights", help="CPU workers share one set of weights, prepared once in the user's cache."),
]


def runner_options(
    devices: str | None,
    engine: str | None,
    engine_option: Sequence[str] | None,
    workers: str | None,
    worker_python: Path | None,
    precision: str | None,
    chunk_size: int | None,
    batch_axis: Sequence[str] | None,
) -> dict[str, Any]:
    """Return the arguments of ``ParallelPredictUtils`` that ``run`` and ``bench`` share; raises UsageError."""
    return {
        "devices": devices,
        "engine": engine,
        "engine_options": read_options(engine_option),
        "precision": precision,
        "workers": workers,
        "worker_python": worker_python,
        "chunk_size": chunk_size,
        "batch_axes": read_batch_axes(batch_axis),
    }


def read_options(texts: Sequence[str] | None, option: str = "--engine-option") -> dict[str, Any]:
    """Parse ``NAME=VALUE`` texts; values are YAML: ``2``, ``true``, ``{a: 1}`` or plain words.

    Raises:
        UsageError: if a text has no ``=``, or its value is not YAML.
    """
    if not texts:
        return {}
    import yaml

    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {text!r} is not of the form NAME=VALUE")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"{option} {name} has the value {value!r}, which is not YAML") from None
    return options


def read_batch_axes(texts: Sequence[str] | None) -> dict[str, int | None]:
    """Parse ``NAME=AXIS`` texts; the axis is a number, or ``none``.

    Raises:
        UsageError: if a text is malformed.
    """
    axes: dict[str, int | None] = {}
    for text in texts or ():
        name, _, axis = text.rpartition("=")
        if not name or not (axis.lower() == "none" or axis.lstrip("-").isdigit()):
            raise UsageError(f"--batch-axis {text!r} is not of the form NAME=AXIS, AXIS a number or none")
        axes[name] = None if axis.lower() == "none" else int(axis)
    return axes
