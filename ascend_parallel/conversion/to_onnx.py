"""``convert --to onnx``: an ONNX file of lower precision, with its manifest."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ascend_parallel.checks import check_may_be_made, check_one_of
from ascend_parallel.devices import parse_devices
from ascend_parallel.errors import UsageError
from ascend_parallel.model_manifest import Manifest, SavedFile, hash_files, manifest_file

from . import reduce_precision
from .atc import refuse_options
from .calibration import check_samples, read_samples
from .compare_onnx import TOLERANCES, check_opens, compare_onnx
from .job import Request
from .onnx_file import OnnxFile, read_onnx
from .reduce_precision import TOOLS, Tool, find_version, may_saturate, run_tool
from .shapes import Shape, check_input_shape, fill_shapes, parse_input_shape
from .verify import make_feeds
from .work_folder import install, work_folder

__all__ = ["PRECISIONS", "OnnxJob", "convert_to_onnx", "prepare"]

PRECISIONS = ("fp16", "int8")
ONNX = ".onnx"
_OTHER_SUFFIXES = (".mindir", ".om", ".ms")
#: Rows of generated inputs, where the model leaves the batch open.
GENERATED_ROWS = 2
#: Operators for which onnxruntime's documentation recommends static quantization.
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})

Show = Callable[[str], None]


@dataclass(frozen=True)
class OnnxJob:
    """The conversion of one ONNX file to another precision.

    Attributes:
        onnx: the model.
        precision: "fp16" or "int8".
        output: the file to write.
        tool: what makes it.
        version: the version of onnxruntime, which has the tool.
        calibration: .npz files with inputs.
        symmetric: whether activations are quantized symmetrically.
        shapes: input name -> shape of the generated inputs; empty if there are samples, or nothing is verified.
    """

    onnx: OnnxFile
    precision: str
    output: Path
    tool: Tool
    version: str
    calibration: tuple[Path, ...]
    symmetric: bool
    shapes: Mapping[str, Shape]

    @property
    def command_line(self) -> str:
        """The call of the tool, in words."""
        samples = f", calibrated on {_count(len(self.calibration), 'sample')}" if self.is_calibrated else ""
        symmetric = ", symmetric" if self.symmetric else ""
        return f"{self.tool.call}: {self.onnx.path} -> {self.output}{samples}{symmetric}"

    @property
    def is_calibrated(self) -> bool:
        """Whether the result depends on the calibration data."""
        return self.precision == "int8" and bool(self.calibration)

    def hash_recipe(self) -> str:
        """Return a hash of everything that the result depends on, except the ONNX file."""
        parameters = [self.precision, self.tool.call, self.version, self.symmetric, may_saturate()]
        files = [Path(reduce_precision.__file__), *(self.calibration if self.is_calibrated else ())]
        return hashlib.sha256(json.dumps([parameters, hash_files(files)]).encode()).hexdigest()

    def feeds(self) -> Iterator[Mapping[str, Any]]:
        """Yield inputs to verify the result with: the samples, else random ones."""
        if self.calibration:
            yield from read_samples(self.calibration)
        else:
            yield make_feeds(self)


def prepare(request: Request, *, verify: bool) -> OnnxJob:
    """Check a request; raises UsageError, and then nothing was started or written."""
    _refuse_others(request)
    if request.precision is None:
        raise UsageError("--to onnx makes a model of lower precision: add --precision fp16 or --precision int8")
    check_one_of("--precision", request.precision, PRECISIONS, "fp16 or int8 with --to onnx")
    onnx = read_onnx(request.model)
    if onnx.precision != "fp32":
        kind = f"is an {onnx.precision} model" if onnx.precision else "has no numbers of float32"
        raise UsageError(f"{onnx.path} {kind}; expected one of fp32")
    output = _name_output(request)
    check_samples(request.calibration, onnx.inputs)
    tool = TOOLS[_choose_tool(request, onnx, verify=verify)]
    version = find_version()
    shapes = _find_shapes(request, onnx, verify=verify)
    return OnnxJob(
        onnx, request.precision, output, tool, version, tuple(request.calibration), _is_symmetric(request), shapes
    )


def _refuse_others(request: Request) -> None:
    others = {
        "--batch-per-device": request.batch_per_device,
        "--batch-axis": request.batch_axes,
        "--target": request.target,
        "--config-file": request.config_file,
        "--worker-python": request.worker_python,
    }
    for option, value in others.items():
        if value:
            raise UsageError(f"{option} has no effect with --to onnx: leave it out")
    refuse_options(request.atc, request.to)


def _choose_tool(request: Request, onnx: OnnxFile, *, verify: bool) -> str:
    if request.precision == "fp16":
        if request.calibration and not verify:
            raise UsageError("--calibration has no effect on fp16 without --verify: add --verify, or leave it out")
        return "fp16"
    if request.calibration:
        return "int8 static"
    if onnx.operators & _CONVOLUTIONS:
        raise UsageError(
            f"{onnx.path} has convolutions, whose activations need known ranges in int8: give samples of the inputs, "
            "--calibration FILE.npz"
        )
    return "int8 dynamic"


def _is_symmetric(request: Request) -> bool:
    """Whether the devices need symmetric activations: TensorRT does, and for others --devices has no effect."""
    if request.devices is None:
        return False
    kinds = {device.type for device in parse_devices(request.devices)}
    if kinds != {"tensorrt"} or not request.calibration or request.precision != "int8":
        raise UsageError(
            "--devices has no effect with --to onnx, except --devices tensorrt:0 with --precision int8 and "
            "--calibration: leave it out"
        )
    return True


def _name_output(request: Request) -> Path:
    """Return the file to write: --output itself if it is a file, else NAME_PRECISION.onnx in that folder."""
    if request.output.suffix in _OTHER_SUFFIXES:
        raise UsageError(f"--output {request.output} is no name for an ONNX file: name a folder, or a file X.onnx")
    if request.output.name.endswith(ONNX):
        if request.name is not None:
            raise UsageError(f"--name and --output {request.output} both name the file; leave one of the two out")
        output = request.output
    else:
        stem = f"{request.model.stem}_{request.precision}" if request.name is None else request.name
        if not stem or stem != os.path.basename(stem) or stem in (".", ".."):
            raise UsageError(f"--name {stem!r} is not a file name; set the folder with --output")
        output = request.output / f"{stem}{ONNX}"
    check_may_be_made("--output:", output.parent)
    if output.is_dir():
        raise UsageError(f"--output: {output} is a folder; expected the name of a file")
    if output.exists() and output.samefile(request.model):
        raise UsageError(f"--output: {output} is the model itself; name another file")
    return output


def _find_shapes(request: Request, onnx: OnnxFile, *, verify: bool) -> dict[str, Shape]:
    """Return the shapes of generated inputs; empty if none are needed."""
    if request.calibration or not verify:
        if request.input_shape:
            raise UsageError("--input-shape is for the inputs that --verify generates with --to onnx: leave it out")
        return {}
    requested = parse_input_shape(request.input_shape)
    axes = {spec.name: 0 if spec.shape and not isinstance(spec.shape[0], int) else None for spec in onnx.inputs}
    check_input_shape(onnx.inputs, axes, requested)
    rows = {shape[0] for name, shape in requested.items() if axes[name] == 0 and shape[0] > 0}
    if len(rows) > 1:
        raise UsageError(f"--input-shape has inputs of {' and '.join(map(str, sorted(rows)))} rows; expected one size")
    return fill_shapes(onnx.inputs, axes, requested, next(iter(rows), GENERATED_ROWS))


# ---- making it


def convert_to_onnx(request: Request, show: Show, tolerance: float | None, *, verify: bool, dry_run: bool) -> Path:
    """Make the model, unless an earlier result is up to date; return its path.

    Raises:
        UsageError: if the request is invalid; nothing was started or written.
        ConversionError, DiskError: if that failed; existing files are unchanged.
    """
    from .convert import find_up_to_date

    job = prepare(request, verify=verify)
    if dry_run:
        show(job.command_line)
        return job.output

    def check(file: Path) -> None:
        limit = TOLERANCES[job.precision] if tolerance is None else tolerance
        for difference in compare_onnx(job.onnx.path, file, job.output, job.feeds(), limit):
            show(str(difference))

    up_to_date = find_up_to_date(job)
    show(job.command_line if up_to_date is None else f"{up_to_date} is up to date")
    if up_to_date is not None:
        if verify:
            check(up_to_date)
        return up_to_date
    return _make(job, check if verify else lambda file: check_opens(file, job.output))


def _make(job: OnnxJob, check: Callable[[Path], object]) -> Path:
    words = f"converting {job.onnx.path} to {job.precision} with onnxruntime {job.version}: {job.output}"
    print(words, file=sys.stderr)
    folder = job.output.parent
    with work_folder(folder) as work:
        made = work / "made"
        made.mkdir()
        result = made / job.output.name
        run_tool(job.tool, job.onnx, result, job.calibration, job.symmetric, job.precision)
        check(result)
        files = [result, *sorted(file for file in made.iterdir() if file != result)]
        manifest = work / manifest_file(result).name
        manifest.write_text(_describe(job, files).to_json(), "utf-8")
        file, *_ = install([*files, manifest], folder)
    return file


def _describe(job: OnnxJob, files: Sequence[Path]) -> Manifest:
    """Return the manifest; rows and inputs are those of the source."""
    return Manifest(
        source=os.path.relpath(job.onnx.path.resolve(), job.output.parent.resolve()),
        source_sha256=job.onnx.sha256,
        target="onnx",
        precision=job.precision,
        rows=0,
        inputs=(),
        shape_options=(),
        converter=job.tool.call,
        converter_version=job.version,
        recipe=job.hash_recipe(),
        files=tuple(SavedFile.of(file, files[0].parent) for file in files),
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
