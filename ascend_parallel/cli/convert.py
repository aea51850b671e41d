"""``ascend-parallel convert``: an ONNX file into MINDIR files of the batch that each device gets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ascend_parallel.errors import UsageError

from .arguments import Devices, WorkerPython, read_batch_axes


def convert(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.")],
    devices: Devices = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder for the results; or, for a single one, a file X.mindir.")
    ] = Path(),
    name: Annotated[
        str | None, typer.Option(help="Of the results: NAME_bsROWS.mindir. [default: the ONNX file's]")
    ] = None,
    batch_per_device: Annotated[
        str,
        typer.Option(
            metavar="ROWS",
            help="Rows that a device gets at a time; 1,2,4 makes three files. [default: the "
            "batch divided by the number of devices]",
        ),
    ] = "",
    input_shape: Annotated[
        str,
        typer.Option(
            metavar="SHAPES",
            help="Sizes that the model leaves open, of the whole batch: "
            '"x:2,4,64,64;y:2,77,1024"; -1 for a size that the model or --batch-per-device tells.',
        ),
    ] = "",
    batch_axis: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=AXIS", help="Where an input has its rows, or NAME=none; repeatable."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="ascend or cpu. [default: by the devices]")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp16 or fp32, for Ascend. [default: the converter's, which is fp16]")
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A configuration file of the converter's.")
    ] = None,
    worker_python: WorkerPython = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the converter's commands only.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the results with the ONNX file on random inputs.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="The largest difference that --verify lets pass, as a share of an output's range. "
            "[default: 0.001; 0.02 for Ascend]"
        ),
    ] = None,
) -> None:
    """Convert an ONNX file to MINDIR, for the share of its batch that each device gets.

    converter_lite is used where it is on PATH, else mindspore_lite's Python Converter in --worker-python. Its command
    is printed; the result is written to a hidden folder first and gets its name when it is whole. X.mindir.json beside
    it tells what it was made from and for; what is up to date is not made again.
    """
    from ascend_parallel.conversion.convert import make
    from ascend_parallel.conversion.converter import assume_converter, find_converter
    from ascend_parallel.conversion.job import Request, prepare
    from ascend_parallel.conversion.verify import check_can_verify, check_tolerance, compare

    python = None if worker_python is None else str(worker_python)
    request = Request(
        model,
        devices,
        output,
        name,
        read_sizes(batch_per_device),
        input_shape,
        read_batch_axes(batch_axis),
        target,
        precision,
        config_file,
        python,
    )
    if tolerance is not None and not verify:
        raise UsageError("--tolerance is of no use without --verify; add that, or leave it out")
    check_tolerance(tolerance)
    jobs = prepare(request, assume_converter if dry_run else find_converter)
    if verify and not dry_run:
        check_can_verify(jobs[0], python)
    for job in jobs:
        print(job.command_line, flush=True)
        if not dry_run:
            file = make(job)
            for difference in compare(job, file, python, tolerance) if verify else ():
                print(difference, flush=True)


def read_sizes(text: str) -> list[int]:
    """Read ``1,2,4``; raises UsageError."""
    try:
        return [int(size) for size in text.split(",")] if text.strip() else []
    except ValueError:
        raise UsageError(f"--batch-per-device {text!r} is not of the form ROWS or ROWS,ROWS,...") from None
