"""``ascend-parallel info``: show a model's inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Devices, EngineName, EngineOptions, Model, WorkerPython, read_options

if TYPE_CHECKING:
    from ascend_parallel.worker.engines import TensorSpec


def info(
    model: Model,
    devices: Devices = None,
    engine: EngineName = None,
    engine_option: EngineOptions = None,
    worker_python: WorkerPython = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show a model's inputs and outputs.

    An .onnx file is read without an engine. Any other model is built on the first device.
    """
    inputs: Sequence[TensorSpec] | None
    outputs: Sequence[TensorSpec] | None
    if model.endswith(".onnx") and engine in (None, "onnxruntime"):
        from ascend_parallel.conversion.onnx_file import read_onnx

        onnx_model = read_onnx(Path(model))
        inputs, outputs = onnx_model.inputs, onnx_model.outputs
    else:
        inputs, outputs = build(model, devices, engine, read_options(engine_option), worker_python)
    if as_json:
        print(json.dumps({"inputs": _plain(inputs), "outputs": _plain(outputs)}, indent=2))
    else:
        show(model, inputs, outputs)


def build(
    model: str, devices: str | None, engine: str | None, options: dict[str, Any], worker_python: Path | None
) -> tuple[list[TensorSpec] | None, list[TensorSpec] | None]:
    """Return the inputs and outputs of a model, built by a worker on the first device."""
    from ascend_parallel import ParallelPredictUtils

    all_devices = ParallelPredictUtils(
        model, devices=devices, engine=engine, engine_options=options, worker_python=worker_python
    )
    first = ParallelPredictUtils(
        model, devices=all_devices.devices[:1], engine=engine, engine_options=options, worker_python=worker_python
    )
    with first as runner:
        return runner.inputs, runner.outputs


def _plain(specs: Sequence[TensorSpec] | None) -> Any:
    return None if specs is None else [spec._asdict() for spec in specs]


def show(model: str, inputs: Sequence[TensorSpec] | None, outputs: Sequence[TensorSpec] | None) -> None:
    """Print a table of a model's inputs and outputs."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("", "Name", "dtype", "Shape"):
        table.add_column(title)
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs or ():
            shape = "(" + ", ".join("?" if dim is None else str(dim) for dim in spec.shape) + ")"
            table.add_row(kind, spec.name, spec.dtype, shape)
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(table)
    for kind, specs in (("inputs", inputs), ("outputs", outputs)):
        if specs is None:
            console.print(f"The {kind} of {model} are not known before its first call.", soft_wrap=True)
