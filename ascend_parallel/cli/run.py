"""``ascend-parallel run``: run one batch from a file through a model."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ascend_parallel.checks import check_writable
from ascend_parallel.files import read_arrays, write_whole

from .arguments import (
    Devices,
    EngineName,
    EngineOptions,
    Model,
    Precision,
    ShareWeights,
    WorkerPython,
    Workers,
    runner_options,
)


def run(
    model: Model,
    input_file: Annotated[Path, typer.Option("--input", metavar="IN.npz", help="File with the inputs, by name.")],
    output_file: Annotated[Path, typer.Option("--output", metavar="OUT.npz", help="File for the outputs, by name.")],
    devices: Devices = None,
    engine: EngineName = None,
    engine_option: EngineOptions = None,
    precision: Precision = None,
    workers: Workers = "processes",
    worker_python: WorkerPython = None,
    instances: Annotated[int, typer.Option(help="How many times each device runs the model at the same time.")] = 1,
    share_weights: ShareWeights = False,
    chunk_size: Annotated[int | None, typer.Option(help="Rows per task. [default: one task per worker]")] = None,
    batch_axis: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=AXIS", help="Batch axis of an input or output; none: it is not sliced. Repeatable."),
    ] = None,
) -> None:
    """Run a batch through a model on all devices."""
    from ascend_parallel import ParallelPredictUtils

    check_writable("--output", output_file, [".npz"])
    inputs = read_arrays("--input", input_file)
    runner = ParallelPredictUtils(
        model,
        **runner_options(devices, engine, engine_option, workers, worker_python, precision, chunk_size, batch_axis),
        instances=instances,
        share_weights=share_weights,
    )
    with runner:
        started_s = time.perf_counter()
        outputs = runner.predict(inputs)
        elapsed_s = time.perf_counter() - started_s
    write_arrays(output_file, outputs)
    used_devices = ", ".join(map(str, runner.devices))
    print(f"predicted in {elapsed_s:.3f} s on {used_devices}; outputs in {output_file}:", file=sys.stderr)
    for name, array in outputs.items():
        print(f"  {name}: {array.dtype} {array.shape}", file=sys.stderr)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an .npz file atomically; raises DiskError if it could not be written."""
    import numpy as np

    write_whole(path, lambda file: np.savez(file, **arrays))
