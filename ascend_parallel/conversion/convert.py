"""``convert``: an ONNX file in, a MINDIR file for each batch that a device may get out, each with its manifest."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ascend_parallel.devices import Device
from ascend_parallel.errors import ConversionError, DiskError, UsageError
from ascend_parallel.model_manifest import InputRecord, Manifest, SavedFile, manifest_file, read_manifest

from .converter import assume_converter, find_converter, run_converter
from .job import MINDIR, Job, Request, prepare, strip_suffix
from .verify import check_can_verify, check_tolerance, compare
from .work_folder import install, work_folder

__all__ = ["convert"]

Show = Callable[[str], None]
Check = Callable[[Job, Path], None]


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def convert(
    model: str | os.PathLike[str],
    *,
    devices: str | Iterable[str | Device] | None = None,
    output: str | os.PathLike[str] = ".",
    name: str | None = None,
    batch_per_device: Sequence[int] = (),
    input_shape: str = "",
    batch_axes: Mapping[str, int | None] | None = None,
    target: str | None = None,
    precision: str | None = None,
    config_file: str | os.PathLike[str] | None = None,
    worker_python: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    verify: bool = False,
    tolerance: float | None = None,
    show: Show = _tell,
) -> list[Path]:
    """Convert an ONNX file to MINDIR files of the batch that each device gets; what is up to date is left.

    ::

        convert("unet.onnx", devices="ascend:0,1")      # of batch 2 -> unet_bs1.mindir, unet_bs1.mindir.json

    Args:
        model: the ONNX file.
        devices: those that will share the batch, such as ``"ascend:0,1"``; None: all of the machine's best type.
        output: the folder for the results, or a file that ends in .mindir.
        name: of the results, which become ``NAME_bsROWS.mindir``; None: the ONNX file's.
        batch_per_device: rows that a device gets at a time, one result for each; empty: the batch, which the model or
            ``input_shape`` tells, divided by the number of devices.
        input_shape: sizes that the model leaves open, of the whole batch: ``"x:2,4,64,64;y:2,77,1024"``.
        batch_axes: input name -> the axis that holds its rows, or None, where the model's shapes leave it open.
        target: "ascend" or "cpu"; None: by the devices.
        precision: "fp16" or "fp32", for Ascend; None: the converter's default.
        config_file: a configuration file of the converter's.
        worker_python: the interpreter that has mindspore_lite.
        dry_run: show the converter's commands only.
        verify: compare the results with the ONNX file on random inputs; one that differs is not kept.
        tolerance: the largest difference that ``verify`` lets pass, as a share of an output's range.
        show: is called with each of the converter's commands, and with what ``verify`` finds; by default they are
            told on stderr, as all else is. A result that is up to date is told in place of its command.

    Returns:
        The MINDIR files.

    Raises:
        UsageError: it cannot be done; nothing was started or written.
        ConversionError: the converter failed, or its result computes something else.
        DiskError: a file could not be written.
    """
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
        config_file=None if config_file is None else Path(config_file),
        worker_python=None if worker_python is None else os.fspath(worker_python),
    )
    jobs = prepare(request, assume_converter if dry_run else find_converter)
    if verify and not dry_run:
        check_can_verify(jobs[0], request.worker_python)

    def check(job: Job, mindir: Path) -> None:
        for difference in compare(job, mindir, request.worker_python, tolerance) if verify else ():
            show(str(difference))

    return [_carry_out(job, show, check, dry_run=dry_run) for job in jobs]


def _carry_out(job: Job, show: Show, check: Check, *, dry_run: bool) -> Path:
    done = None if dry_run else find_up_to_date(job)
    show(job.command_line if done is None else f"{done} is up to date")
    if job.config_text:
        _tell(f"{job.own_config} says: {' '.join(job.config_text.split())}")
    if dry_run:
        return job.output
    if done is None:
        return make(job, check)
    check(job, done)
    return done


def make(job: Job, check: Check) -> Path:
    """Convert; what is done is told on stderr.

    Args:
        job: what to do.
        check: is called with the result before that is put in its place; what it raises leaves nothing of it.

    Returns:
        The MINDIR file; of a model above 2 GB, its weights lie in the folder ``NAME_variables`` beside it.

    Raises:
        ConversionError, DiskError: it did not work; what was there before is there still.
        UsageError: a package is missing that the rewriting for the CPU needs.
    """
    converter = job.converter
    _tell(f"converting {job.onnx.path} for {job.target} with {converter.name} {converter.version}: {job.output}")
    folder = job.output.parent
    with work_folder(folder) as work:
        source, changes = _rewrite_for_cpu(job, work)
        made = _run(job, source, work / "made")
        check(job, made[0])
        manifest = _describe(job, changes, made)
        (work / "manifest").mkdir()
        text = work / "manifest" / manifest_file(made[0]).name
        text.write_text(manifest.to_json(), "utf-8")
        file, *_ = install([*made, text], folder)
    return file


def find_up_to_date(job: Job) -> Path | None:
    """Return the result of an earlier conversion that was just the same; None where there is none."""
    try:
        manifest = read_manifest(job.output)
    except UsageError:  # not readable: it is written anew
        return None
    if manifest is None or manifest.recipe != job.hash_recipe():
        return None
    is_whole = manifest.are_files_unchanged(job.output.parent) and manifest.source_sha256 == job.onnx.sha256
    return job.output if is_whole else None


def _rewrite_for_cpu(job: Job, work: Path) -> tuple[Path, dict[str, int]]:
    """Return the ONNX file for the converter, and what was changed: the user's own where nothing had to be."""
    from .cpu_rewrite import needs_work, rewrite_for_cpu

    if job.target != "cpu" or not needs_work(job.onnx.operators):
        return job.onnx.path, {}
    import onnx

    model, changes = rewrite_for_cpu(job.onnx.load(weights=True), job.shapes)
    if not changes:
        return job.onnx.path, {}
    told = ", ".join(f"{count} {kind}" for kind, count in changes.items())
    _tell(f"rewrote a copy of {job.onnx.path} for MindSpore Lite's CPU kernels: {told}")
    rewritten = work / "model.onnx"
    onnx.save(model, str(rewritten))
    return rewritten, changes


def _run(job: Job, source: Path, folder: Path) -> list[Path]:
    """Run the converter; return what it made in a folder of its own, the MINDIR file first.

    Raises:
        ConversionError, DiskError: it failed, or made something else.
    """
    folder.mkdir()
    base = strip_suffix(job.output).name
    config = job.config_file
    if job.config_text:
        config = folder / job.own_config.name
        config.write_text(job.config_text, "utf-8")
    try:
        run_converter(job.write_command(source, folder / base, config), job.onnx.path)
    except ConversionError as error:
        if shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
            raise DiskError(f"{job.output} could not be written: no space is left on the disk") from error
        if WRITE_FAILED in error.log:
            raise DiskError(f"{job.output} could not be written by the converter: {error}") from error
        raise
    result = folder / f"{base}{MINDIR}"
    graph = folder / f"{base}_graph{MINDIR}"  # of a model above 2 GB, whose weights lie in BASE_variables
    if graph.exists():
        graph.replace(result)  # it names its weights' file, not the other way round
    made = sorted(folder.iterdir())
    if result in made:
        return [result, *(other for other in made if other != result)]
    told = ", ".join(file.name for file in made) or "nothing"
    raise ConversionError(
        f"the converter of {job.onnx.path} wrote no {result.name} but {told}; is it that of MindSpore Lite's package "
        "for devices at the edge, which makes .ms files?"
    )


#: What converters say where a file cannot be written, before they say that they failed.
WRITE_FAILED = "Failed to write"
LEAST_FREE_BYTES = 1 << 16


def _describe(job: Job, changes: Mapping[str, int], made: Sequence[Path]) -> Manifest:
    """Return the manifest of what was made."""
    inputs = [
        InputRecord(spec.name, spec.dtype, job.shapes[spec.name], job.axes[spec.name]) for spec in job.onnx.inputs
    ]
    parts = [file for item in made for file in (sorted(item.rglob("*")) if item.is_dir() else [item])]
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
        files=tuple(SavedFile.of(file, made[0].parent) for file in parts if file.is_file()),
    )
