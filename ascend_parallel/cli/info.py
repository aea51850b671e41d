"""``ascend-parallel info``: show a model's inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .arguments import Devices, EngineName, EngineOptions, Model, Precision, WorkerPython, read_options

if TYPE_CHECKING:
    from ascend_parallel.worker.engines import TensorSpec


def info(
    model: Model,
    devices: Devices = None,
    engine: EngineName = None,
    engine_option: EngineOptions = None,
    precision: Precision = None,
    worker_python: WorkerPython = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show a model's inputs and outputs.

    An .onnx file is read without an engine, and its precision is shown, too. Any other model is built on the first
    device. With --devices, an .onnx file is built there, too, and a table shows which operators run on which of ONNX
    Runtime's providers.
    """
    options = {
        "devices": devices,
        "engine": engine,
        "engine_options": read_options(engine_option),
        "precision": precision,
        "worker_python": worker_python,
    }
    if model.endswith(".onnx") and engine in (None, "onnxruntime") and devices is None:
        from ascend_parallel.conversion.onnx_file import read_onnx

        onnx_model = read_onnx(Path(model))
        check(model, options)
        facts = _Facts(onnx_model.inputs, onnx_model.outputs, None, onnx_model.precision)
    else:
        facts = build(model, options)
    if as_json:
        print(json.dumps(facts.to_json(), indent=2))
    else:
        show(model, facts)
        if devices is not None and facts.nodes is None and model.endswith(".onnx"):
            print("Which provider runs which node is told by onnxruntime 1.24 and newer.")


class _Facts(NamedTuple):
    """What there is to show; ``nodes`` is provider -> operator -> number of nodes, ``precision`` that of the file."""

    inputs: Sequence[TensorSpec] | None
    outputs: Sequence[TensorSpec] | None
    nodes: dict[str, dict[str, int]] | None
    precision: str

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        told = {"inputs": _plain(self.inputs), "outputs": _plain(self.outputs), "nodes": self.nodes}
        return {**told, "precision": self.precision or None}


def check(model: str, options: dict[str, Any]) -> None:
    """Refuse, without starting anything, options that a run of the model would refuse; raises UsageError."""
    from ascend_parallel import ParallelPredictUtils

    if any(options.values()):
        ParallelPredictUtils(model, **options)


def build(model: str, options: dict[str, Any]) -> _Facts:
    """Return the facts of a model, built by a worker on the first device."""
    from ascend_parallel import ParallelPredictUtils
    from ascend_parallel.model_precision import read_precision

    first = ParallelPredictUtils(model, **options).devices[:1]
    with ParallelPredictUtils(model, **{**options, "devices": first}) as runner:
        return _Facts(runner.inputs, runner.outputs, runner.models[""].assignment, read_precision(model))


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
    if facts.precision:
        console.print(f"Precision: {facts.precision}")
    for line in describe_nodes(facts.nodes):
        console.print(line, soft_wrap=True)


def describe_nodes(nodes: dict[str, dict[str, int]] | None) -> Iterator[str]:
    """Yield a line for each provider: ``CPUExecutionProvider runs 2 of 9 nodes: Hardmax 1, Cast 1``."""
    from ascend_parallel.worker.engines.assignment import describe_counts

    total = sum(sum(counts.values()) for counts in (nodes or {}).values())
    for provider, counts in (nodes or {}).items():
        yield f"{provider} runs {sum(counts.values())} of {total} nodes: {describe_counts(counts)}"
