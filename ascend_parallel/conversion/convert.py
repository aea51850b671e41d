"""``convert``: convert an ONNX file to a MINDIR or OM file for each batch size per device, each with its manifest."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ascend_parallel.checks import check_one_of
from ascend_parallel.devices import Device
from ascend_parallel.errors import ConversionError, DiskError, UsageError
from ascend_parallel.model_manifest import InputRecord, Manifest, SavedFile, manifest_file, read_manifest

from .atc import read_options
from .converter import run_converter
from .formats import FORMATS
from .job import Job, Request, prepare
from .verify import check_can_verify, check_tolerance, compare
from .work_folder import install, work_folder

if TYPE_CHECKING:
    from .to_onnx import OnnxJob

__all__ = ["MAKERS", "convert"]

Show = Callable[[str], None]
Check = Callable[[Job, Path], None]


def _log(line: str) -> None:
    print(line, file=sys.stderr)


def convert(
    model: str | os.PathLike[str],
    *,
    to: str = "mindir",
    devices: str | Iterable[str | Device] | None = None,
    output: str | os.PathLike[str] = ".",
    name: str | None = None,
    batch_per_device: Sequence[int] = (),
    input_shape: str = "",
    batch_axes: Mapping[str, int | None] | None = None,
    target: str | None = None,
    precision: str | None = None,
    calibration: Sequence[str | os.PathLike[str]] = (),
    config_file: str | os.PathLike[str] | None = None,
    atc_options: Mapping[str, Any] | None = None,
    worker_python: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    verify: bool = False,
    tolerance: float | None = None,
    show: Show = _log,
) -> list[Path]:
    """Convert an ONNX file to MINDIR or OM files for the batch of each device, or to an ONNX file of lower precision.

    ::

        convert("unet.onnx", devices="ascend:0,1")      # of batch 2 -> unet_bs1.mindir, unet_bs1.mindir.json
        convert("unet.onnx", to="om", atc_options={"dynamic_batch_size": [1, 2]})       # -> unet_bs1-2.om, ...json
        convert("unet.onnx", to="onnx", precision="fp16")                  # -> unet_fp16.onnx, unet_fp16.onnx.json

    Results that are up to date are kept.

    Args:
        model: the ONNX file.
        to: "mindir", "om" for CANN's own format, which ATC makes, or "onnx".
        devices: the devices that the batch is divided by, such as ``"ascend:0,1"``; None: all devices of the machine's
            best type.
        output: the folder for the results, or a file that ends in .mindir, .om or .onnx.
        name: base name of the results, which are called ``NAME_bsROWS.mindir``, ``NAME_bsROWS.om`` or ``NAME.onnx``;
            None: the ONNX file's name, with the precision for "onnx".
        batch_per_device: batch sizes of the results, one result each; empty: the batch (of the model or of
            ``input_shape``) divided by the number of devices.
        input_shape: shapes of inputs with open axes, for the whole batch: ``"x:2,4,64,64;y:2,77,1024"``.
        batch_axes: input name -> batch axis, or None for an input that is not sliced; only needed if the model's shapes
            leave it open.
        target: "ascend" or "cpu"; None: by the devices.
        precision: "fp16" or "fp32", for Ascend; None: the converter's default. For "onnx": "fp16", of which inputs and
            outputs stay float32, or "int8".
        calibration: for "onnx": .npz files, each with the inputs of a call, by name. With them, "int8" has activations
            quantized to the ranges seen there; without, while the model runs, which does not suit convolutions.
        config_file: a configuration file of the converter.
        atc_options: for OM files: ``soc_version`` (the chip, such as "Ascend310P3"; by default the one that npu-smi
            tells), ``dynamic_batch_size`` (the batch sizes of one model), ``precision_mode`` (as ATC names it) and
            ``insert_op_conf`` (the configuration file of AIPP).
        worker_python: the Python interpreter that has mindspore_lite; for OM files, that has pyACL, for ``verify``.
        dry_run: only show the converter's commands.
        verify: compare the results with the ONNX file on the calibration data or on random inputs; a result that
            differs is deleted.
        tolerance: the largest difference that ``verify`` accepts, relative to an output's range.
        show: called with each of the converter's commands (or, for a result that is up to date, a line that says so),
            and with the differences that ``verify`` finds; by default it prints to stderr, like all other messages.

    Returns:
        The files.

    Raises:
        UsageError: if the request is invalid; nothing was started or written.
        ConversionError: if the converter failed, or its result computes other numbers.
        DiskError: if a file could not be written.
    """
    check_one_of("--to", to, MAKERS)
    check_tolerance(tolerance, verify=verify)
    request = Request(
        model=Path(model),
        devices=devices,
        output=Path(output),
        name=name,
        batch_per_device=batch_per_device,
        input_shape=input_shape,
        batch_axes=batch_axes or {},
        target=target,
        precision=precision,
        calibration=[Path(file) for file in calibration],
        config_file=None if config_file is None else Path(config_file),
        worker_python=None if worker_python is None else os.fspath(worker_python),
        to=to,
        atc=read_options(atc_options or {}),
    )
    return MAKERS[to](request, show, tolerance, verify=verify, dry_run=dry_run)


def _convert_to_onnx(
    request: Request, show: Show, tolerance: float | None, *, verify: bool, dry_run: bool
) -> list[Path]:
    from .to_onnx import convert_to_onnx

    return [convert_to_onnx(request, show, tolerance, verify=verify, dry_run=dry_run)]


def _run_converter_of_format(
    request: Request, show: Show, tolerance: float | None, *, verify: bool, dry_run: bool
) -> list[Path]:
    jobs = prepare(request, lambda made: made.assume_converter if dry_run else made.find_converter)
    check = _checker(jobs[0], request, show, tolerance) if verify and not dry_run else _check_nothing
    return [_run_job(job, show, check, dry_run=dry_run) for job in jobs]


def _check_nothing(job: Job, made: Path) -> None:
    pass


def _checker(first: Job, request: Request, show: Show, tolerance: float | None) -> Check:
    """Return what compares a result with its ONNX file, and shows the differences; raises UsageError."""
    check_can_verify(first, request.worker_python)

    def check(job: Job, made: Path) -> None:
        for difference in compare(job, made, request.worker_python, tolerance):
            show(str(difference))

    return check


def _run_job(job: Job, show: Show, check: Check, *, dry_run: bool) -> Path:
    up_to_date = None if dry_run else find_up_to_date(job)
    show(job.command_line if up_to_date is None else f"{up_to_date} is up to date")
    if job.config_text:
        _log(f"contents of {job.own_config}: {' '.join(job.config_text.split())}")
    if dry_run:
        return job.output
    if up_to_date is None:
        return make(job, check)
    check(job, up_to_date)
    return up_to_date


def make(job: Job, check: Check) -> Path:
    """Convert a model; progress is printed to stderr.

    Args:
        job: the conversion.
        check: called with the result before it is moved to its final place; if it raises, the result is deleted.

    Returns:
        The file; the weights of a MINDIR model above 2 GB are in the folder ``NAME_variables`` beside it.

    Raises:
        ConversionError, DiskError: if the conversion failed; existing files are unchanged.
        UsageError: if a package is missing that the rewriting for the CPU needs.
    """
    converter = job.converter
    _log(f"converting {job.onnx.path} for {job.target} with {converter.name} {converter.version}: {job.output}")
    folder = job.output.parent
    with work_folder(folder) as work:
        source, changes = _rewrite_for_cpu(job, work)
        outputs = _run(job, source, work / "made")
        check(job, outputs[0])
        manifest = _describe(job, changes, outputs)
        (work / "manifest").mkdir()
        manifest_path = work / "manifest" / manifest_file(outputs[0]).name
        manifest_path.write_text(manifest.to_json(), "utf-8")
        file, *_ = install([*outputs, manifest_path], folder)
    return file


def find_up_to_date(job: Job | OnnxJob) -> Path | None:
    """Return the result of an earlier, identical conversion; None if there is none."""
    try:
        manifest = read_manifest(job.output)
    except UsageError:  # an unreadable manifest: it is replaced
        return None
    if manifest is None or manifest.recipe != job.hash_recipe():
        return None
    is_unchanged = manifest.are_files_unchanged(job.output.parent) and manifest.source_sha256 == job.onnx.sha256
    return job.output if is_unchanged else None


def _rewrite_for_cpu(job: Job, work: Path) -> tuple[Path, dict[str, int]]:
    """Return the ONNX file for the converter (the user's own if it needs no rewriting), and the changes."""
    from .cpu_rewrite import needs_rewrite, rewrite_for_cpu

    if job.target != "cpu" or not needs_rewrite(job.onnx.operators):
        return job.onnx.path, {}
    import onnx

    model, changes = rewrite_for_cpu(job.onnx.load(weights=True), job.shapes)
    if not changes:
        return job.onnx.path, {}
    summary = ", ".join(f"{count} {kind}" for kind, count in changes.items())
    _log(f"rewrote a copy of {job.onnx.path} for MindSpore Lite's CPU kernels: {summary}")
    rewritten = work / "model.onnx"
    onnx.save(model, str(rewritten))
    return rewritten, changes


def _run(job: Job, source: Path, folder: Path) -> list[Path]:
    """Run the converter; return its output files in ``folder``, the result first.

    Raises:
        ConversionError, DiskError: if it failed, or did not write the result.
    """
    folder.mkdir()
    config = job.config_file
    if job.config_text:
        config = folder / job.own_config.name
        config.write_text(job.config_text, "utf-8")
    try:
        command = job.write_command(source, folder / job.stem, config)
        run_converter(command, job.onnx.path, job.format.maker, job.format.describe_failure)
    except ConversionError as error:
        if shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
            raise DiskError(f"{job.output} could not be written: no space is left on the disk") from error
        if WRITE_FAILED in error.log:
            raise DiskError(f"{job.output} could not be written by the converter: {error}") from error
        raise
    return job.format.collect(job, folder)


#: Printed by converters when a file cannot be written, before their final error message.
WRITE_FAILED = "Failed to write"
LEAST_FREE_BYTES = 1 << 16


def _describe(job: Job, changes: Mapping[str, int], outputs: Sequence[Path]) -> Manifest:
    """Return the manifest of a conversion's output files."""
    inputs = [
        InputRecord(spec.name, spec.dtype, job.shapes[spec.name], job.axes[spec.name]) for spec in job.onnx.inputs
    ]
    parts = [file for item in outputs for file in (sorted(item.rglob("*")) if item.is_dir() else [item])]
    return Manifest(
        source=os.path.relpath(job.onnx.path.resolve(), job.output.parent.resolve()),
        source_sha256=job.onnx.sha256,
        target=job.target,
        precision=job.precision,
        rows=job.rows,
        inputs=tuple(inputs),
        shape_options=job.shape_options,
        converter=job.converter.name,
        converter_version=job.converter.version,
        recipe=job.hash_recipe(),
        changes=changes,
        soc_version=job.atc.soc_version,
        files=tuple(SavedFile.of(file, outputs[0].parent) for file in parts if file.is_file()),
    )


#: ``--to`` -> what makes files of that format: a converter for the devices, or ONNX Runtime's tools.
MAKERS: dict[str, Callable[..., list[Path]]] = {
    **dict.fromkeys(FORMATS, _run_converter_of_format),
    "onnx": _convert_to_onnx,
}
