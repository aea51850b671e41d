"""``ascend-parallel info``: show a model's inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

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

    An .onnx file is read without an engine. Any other model is built on the first device. With --devices, an .onnx
    file is built there, too, and a table shows which operators run on which of ONNX Runtime's providers.
    """
    if model.endswith(".onnx") and engine in (None, "onnxruntime") and devices is None:
        from ascend_parallel.conversion.onnx_file import read_onnx

        onnx_model = read_onnx(Path(model))
        facts = _Facts(onnx_model.inputs, onnx_model.outputs, None)
    else:
        facts = build(model, devices, engine, read_options(engine_option), worker_python)
    if as_json:
        plain = {"inputs": _plain(facts.inputs), "outputs": _plain(facts.outputs), "nodes": facts.nodes}
        print(json.dumps(plain, indent=2))
    else:
        show(model, facts)
        if devices is not None and facts.nodes is None and model.endswith(".onnx"):
            print("Which provider runs which node is told by onnxruntime 1.24 and newer.")


class _Facts(NamedTuple):
    """What there is to show; ``nodes`` is provider -> operator -> number of nodes."""

    inputs: Sequence[TensorSpec] | None
    outputs: Sequence[TensorSpec] | None
    nodes: dict[str, dict[str, int]] | None


def build(
    model: str, devices: str | None, engine: str | None, options: dict[str, Any], worker_python: Path | None
) -> _Facts:
    """Return the facts of a model, built by a worker on the first device."""
    from ascend_parallel import ParallelPredictUtils

    all_devices = ParallelPredictUtils(
        model, devices=devices, engine=engine, engine_options=options, worker_python=worker_python
    )
    first = ParallelPredictUtils(
        model, devices=all_devices.devices[:1], engine=engine, engine_options=options, worker_python=worker_python
    )
    with first as runner:
        return _Facts(runner.inputs, runner.outputs, runner.models[""].assignment)


def _plain(specs: Sequence[TensorSpec] | None) -> Any:
    return None if specs is None else [spec._asdict() for spec in specs]


def show(model: str, facts: _Facts) -> None:
    """Print a table of a model's inputs and outputs, and one of its operators where they are known."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("", "Name", "dtype", "Shape"):
        table.add_column(title)
    for kind, specs in (("input", facts.inputs), ("output", facts.outputs)):
        for spec in specs or ():
            shape = "(" + ", ".join("?" if dim is None else str(dim) for dim in spec.shape) + ")"
            table.add_row(kind, spec.name, spec.dtype, shape)
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(table)
    for kind, specs in (("inputs", facts.inputs), ("outputs", facts.outputs)):
        if specs is None:
            console.print(f"The {kind} of {model} are not known before its first call.", soft_wrap=True)
    for line in describe_nodes(facts.nodes):
        console.print(line, soft_wrap=True)


def describe_nodes(nodes: dict[str, dict[str, int]] | None) -> Iterator[str]:
    """Yield a line for each provider: ``CPUExecutionProvider runs 2 of 9 nodes: Hardmax 1, Cast 1``."""
    from ascend_parallel.worker.engines.assignment import describe_counts

    total = sum(sum(counts.values()) for counts in (nodes or {}).values())
    for provider, counts in (nodes or {}).items():
        yield f"{provider} runs {sum(counts.values())} of {total} nodes: {describe_counts(counts)}"
