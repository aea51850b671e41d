"""``ascend-parallel convert``: convert an ONNX file to MINDIR files for the devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ascend_parallel.checks import read_whole_numbers

from .arguments import Devices, WorkerPython, read_batch_axes

OnnxModel = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.")]
To = Annotated[str, typer.Option(help="mindir: MINDIR files for the devices. onnx: an ONNX file of lower precision.")]
Output = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder for the results; for a single result also X.mindir or X.onnx.")
]
Name = Annotated[
    str | None,
    typer.Option(
        help="Base name of the results, which are called NAME_bsROWS.mindir or NAME.onnx. [default: the ONNX file's "
        "name, with _PRECISION for ONNX]"
    ),
]
BatchPerDevice = Annotated[
    str,
    typer.Option(
        metavar="ROWS",
        help="Batch size of the converted model; 1,2,4 creates three files. [default: the batch divided by the number "
        "of devices]",
    ),
]
InputShape = Annotated[
    str,
    typer.Option(
        metavar="SHAPES",
        help='Shapes of inputs with open axes, for the whole batch: "x:2,4,64,64;y:2,77,1024". -1 stands for a size '
        "that the model or --batch-per-device determines.",
    ),
]
BatchAxis = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=AXIS", help="Batch axis of an input; none: it is not sliced. Repeatable."),
]
Target = Annotated[str | None, typer.Option(help="ascend or cpu. [default: the type of the devices]")]
Precision = Annotated[
    str | None,
    typer.Option(
        help="fp16 or fp32, for Ascend; fp16 or int8 for --to onnx. [default: the converter's default, which is fp16]"
    ),
]
Calibration = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE.npz",
        help="For --to onnx: the inputs of one call, by name. int8 needs samples for models with convolutions; "
        "--verify compares on them. Repeatable.",
    ),
]
ConfigFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Configuration file of the converter.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the converter's commands, or what would be made.")]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify", help="Compare the results with the ONNX file on the calibration data, or on random inputs."
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        help="Largest difference that --verify accepts, relative to an output's range. [default: 0.001; 0.02 for "
        "Ascend and fp16, 0.1 for int8]"
    ),
]


def convert(
    model: OnnxModel,
    to: To = "mindir",
    devices: Devices = None,
    output: Output = Path(),
    name: Name = None,
    batch_per_device: BatchPerDevice = "",
    input_shape: InputShape = "",
    batch_axis: BatchAxis = None,
    target: Target = None,
    precision: Precision = None,
    calibration: Calibration = None,
    config_file: ConfigFile = None,
    worker_python: WorkerPython = None,
    dry_run: DryRun = False,
    verify: Verify = False,
    tolerance: Tolerance = None,
) -> None:
    """Convert an ONNX file to MINDIR files for the devices, or to an ONNX file of lower precision.

    By default, the batch size of a MINDIR file is the whole batch divided by the number of devices.

    The converter is converter_lite if it is on the PATH, else mindspore_lite's Python Converter in --worker-python. Its
    commands are printed. A result is written to a hidden folder first and renamed when it is complete. The file
    X.mindir.json beside a result records its source, its target and its settings. Results that are up to date are not
    converted again.

    --to onnx --precision fp16 makes NAME_fp16.onnx, whose inputs and outputs stay float32. --to onnx --precision int8
    makes NAME_int8.onnx: with --calibration by static quantization, without by dynamic. Example:

    ascend-parallel convert cnn.onnx --to onnx --precision int8 --calibration a.npz --calibration b.npz --verify
    """
    from ascend_parallel import convert

    convert(
        model,
        to=to,
        devices=devices,
        output=output,
        name=name,
        batch_per_device=read_sizes(batch_per_device),
        input_shape=input_shape,
        batch_axes=read_batch_axes(batch_axis),
        target=target,
        precision=precision,
        calibration=calibration or (),
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
