"""``ascend-parallel convert``: an ONNX file into MINDIR files of the batch that each device gets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ascend_parallel.checks import read_whole_numbers

from .arguments import Devices, WorkerPython, read_batch_axes

OnnxModel = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.")]
Output = Annotated[
    Path, typer.Option(metavar="DIR", help="The folder for the results; or, for a single one, a file X.mindir.")
]
Name = Annotated[str | None, typer.Option(help="Of the results: NAME_bsROWS.mindir. [default: the ONNX file's]")]
BatchPerDevice = Annotated[
    str,
    typer.Option(
        metavar="ROWS",
        help="Rows that a device gets at a time; 1,2,4 makes three files. [default: the batch divided by the number of "
        "devices]",
    ),
]
InputShape = Annotated[
    str,
    typer.Option(
        metavar="SHAPES",
        help='Sizes that the model leaves open, of the whole batch: "x:2,4,64,64;y:2,77,1024"; -1 for a size that the '
        "model or --batch-per-device tells.",
    ),
]
BatchAxis = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=AXIS", help="Where an input has its rows, or NAME=none; repeatable."),
]
Target = Annotated[str | None, typer.Option(help="ascend or cpu. [default: by the devices]")]
Precision = Annotated[
    str | None, typer.Option(help="fp16 or fp32, for Ascend. [default: the converter's, which is fp16]")
]
ConfigFile = Annotated[Path | None, typer.Option(metavar="FILE", help="A configuration file of the converter's.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the converter's commands only.")]
Verify = Annotated[bool, typer.Option("--verify", help="Compare the results with the ONNX file on random inputs.")]
Tolerance = Annotated[
    float | None,
    typer.Option(
        help="The largest difference that --verify lets pass, as a share of an output's range. [default: 0.001; 0.02 "
        "for Ascend]"
    ),
]


def convert(
    model: OnnxModel,
    devices: Devices = None,
    output: Output = Path(),
    name: Name = None,
    batch_per_device: BatchPerDevice = "",
    input_shape: InputShape = "",
    batch_axis: BatchAxis = None,
    target: Target = None,
    precision: Precision = None,
    config_file: ConfigFile = None,
    worker_python: WorkerPython = None,
    dry_run: DryRun = False,
    verify: Verify = False,
    tolerance: Tolerance = None,
) -> None:
    """Convert an ONNX file to MINDIR, for each device's share.

    The batch is divided by the number of devices.

    converter_lite is used where it is on PATH, else mindspore_lite's Python Converter in --worker-python. Its command
    is printed; the result is written to a hidden folder first and gets its name when it is whole. X.mindir.json beside
    it tells what it was made from and for; what is up to date is not made again.
    """
    from ascend_parallel import convert

    convert(
        model,
        devices=devices,
        output=output,
        name=name,
        batch_per_device=read_sizes(batch_per_device),
        input_shape=input_shape,
        batch_axes=read_batch_axes(batch_axis),
        target=target,
        precision=precision,
        config_file=config_file,
        worker_python=worker_python,
        dry_run=dry_run,
        verify=verify,
        tolerance=tolerance,
        show=lambda line: print(line, flush=True),
    )


def read_sizes(text: str) -> list[int]:
    """Read ``1,2,4``; raises UsageError."""
    return read_whole_numbers("--batch-per-device", text, 1) if text.strip() else []
