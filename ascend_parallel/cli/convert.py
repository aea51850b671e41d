"""``ascend-parallel convert``: convert an ONNX file to MINDIR files for the devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ascend_parallel.checks import read_whole_numbers

from .arguments import Devices, WorkerPython, read_batch_axes

OnnxModel = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.")]
To = Annotated[
    str,
    typer.Option(
        metavar="FORMAT",
        help="mindir: files for MindSpore Lite. om: CANN's own format, converted by ATC. onnx: an ONNX file of lower "
        "precision.",
    ),
]
Output = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder for the results; for a single result also X.mindir, X.om or X.onnx.")
]
Name = Annotated[
    str | None,
    typer.Option(
        help="Base name of the results, which are called NAME_bsROWS.mindir, NAME_bsROWS.om or NAME.onnx. [default: "
        "the ONNX file's name, with _PRECISION for ONNX]"
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
        help="fp16 or fp32, for --to mindir on Ascend; fp16 or int8 for --to onnx. [default: the converter's default, "
        "which is fp16]"
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
ConfigFile = Annotated[Path | None, typer.Option(metavar="FILE", help="MINDIR: configuration file of the converter.")]
SocVersion = Annotated[
    str | None,
    typer.Option(metavar="CHIP", help="OM: the chip, such as Ascend310P3. [default: the one that npu-smi tells]"),
]
DynamicBatchSize = Annotated[
    str,
    typer.Option(
        metavar="ROWS", help="OM: batch sizes of one model, such as 1,2,4,8. [default: one, as --batch-per-device says]"
    ),
]
PrecisionMode = Annotated[
    str | None,
    typer.Option(
        "--precision-mode", metavar="MODE", help="OM: ATC's --precision_mode, such as force_fp16. [default: ATC's own]"
    ),
]
InsertOpConf = Annotated[
    Path | None, typer.Option(metavar="FILE", help="OM: configuration file of AIPP, which prepares pictures.")
]
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
    soc_version: SocVersion = None,
    dynamic_batch_size: DynamicBatchSize = "",
    atc_precision_mode: PrecisionMode = None,
    insert_op_conf: InsertOpConf = None,
    worker_python: WorkerPython = None,
    dry_run: DryRun = False,
    verify: Verify = False,
    tolerance: Tolerance = None,
) -> None:
    """Convert an ONNX file to MINDIR or OM files for the devices, or to an ONNX file of lower precision.

    By default, the batch size of a result is the whole batch divided by the number of devices.

    The converter is converter_lite if it is on the PATH, else mindspore_lite's Python Converter in --worker-python; for
    OM files, it is CANN's atc. Its commands are printed. A result is written to a hidden folder first and renamed when
    it is complete. The file X.mindir.json (X.om.json) beside a result records its source, its target and its settings.
    Results that are up to date are not converted again.

    --to onnx --precision fp16 makes NAME_fp16.onnx, whose inputs and outputs stay float32. --to onnx --precision int8
    makes NAME_int8.onnx: with --calibration by static quantization, without by dynamic. Example:

    ascend-parallel convert cnn.onnx --to onnx --precision int8 --calibration a.npz --calibration b.npz --verify
    """
    from ascend_parallel import convert

    told: dict[str, Any] = {"to": to, "devices": devices, "output": output, "name": name, "input_shape": input_shape}
    told |= {"target": target, "precision": precision, "config_file": config_file, "worker_python": worker_python}
    atc_options = {"soc_version": soc_version, "precision_mode": atc_precision_mode, "insert_op_conf": insert_op_conf}
    convert(
        model,
        calibration=calibration or (),
        batch_per_device=read_sizes("--batch-per-device", batch_per_device),
        batch_axes=read_batch_axes(batch_axis),
        atc_options={**atc_options, "dynamic_batch_size": read_sizes("--dynamic-batch-size", dynamic_batch_size)},
        dry_run=dry_run,
        verify=verify,
        tolerance=tolerance,
        show=lambda line: print(line, flush=True),
        **told,
    )


def read_sizes(option: str, text: str) -> list[int]:
    """Read ``1,2,4``; raises UsageError."""
    return read_whole_numbers(option, text, 1) if text.strip() else []
