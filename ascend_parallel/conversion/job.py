"""The conversions to run, checked completely before anything is started or written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ascend_parallel.checks import check_file, check_may_be_made, check_one_of
from ascend_parallel.devices import Device, default_devices, parse_devices
from ascend_parallel.errors import UsageError
from ascend_parallel.model_manifest import DEVICE_TYPES, hash_files

from .atc import NO_OPTIONS, AtcOptions, check_dynamic_batch, check_options, find_soc_version, refuse_options
from .converter import Converter, show_command
from .formats import FORMATS, Format
from .onnx_file import OnnxFile, read_onnx
from .shapes import (
    Axes,
    Shape,
    check_input_shape,
    divide_rows,
    fill_shapes,
    find_batch_axes,
    find_total_rows,
    format_input_shape,
    parse_input_shape,
)

#: --precision -> precision_mode of [ascend_context] in the converter's configuration file. Source: MindSpore Lite's
#: "Ascend Conversion Tool Description".
PRECISION_MODES = {"fp16": "enforce_fp16", "fp32": "enforce_fp32"}
#: The newest opset in the operator lists of CANN (ONNX 1.12) that MindSpore Lite 2.0.0 is known to read correctly. In a
#: newer opset, an operator may have another meaning.
MAX_OPSET = 17
NO_CONVERTER = Converter("", (), "")  # a placeholder until one is found
MAX_SHAPE_BYTES = 1024  # a longer constant is a weight, not a shape


@dataclass(frozen=True)
class Request:
    """The user's request; see :func:`ascend_parallel.convert`."""

    model: Path
    devices: str | Iterable[str | Device] | None = None
    output: Path = Path()
    name: str | None = None
    batch_per_device: Sequence[int] = ()
    input_shape: str = ""
    batch_axes: Mapping[str, int | None] = field(default_factory=dict)
    target: str | None = None
    precision: str | None = None
    calibration: Sequence[Path] = ()
    config_file: Path | None = None
    worker_python: str | None = None
    to: str = "mindir"
    atc: AtcOptions = NO_OPTIONS


@dataclass(frozen=True)
class Job:
    """The conversion of one file.

    Attributes:
        onnx: the model.
        axes: input name -> batch axis.
        rows: the batch size of the result.
        shapes: input name -> shape.
        output: the file to write.
        target: "ascend" or "cpu".
        precision: "fp16", "fp32", or None for the converter's default.
        config_file: the user's configuration file.
        converter: the converter.
        shape_options: the options that determined the shapes, for the manifest.
        device: a device that can run the result.
        to: the result's format, a key of :data:`.formats.FORMATS`.
        atc: the options of ATC, for an OM file.
    """

    onnx: OnnxFile
    axes: Axes
    rows: int
    shapes: Mapping[str, Shape]
    output: Path
    target: str
    precision: str | None
    config_file: Path | None
    converter: Converter
    shape_options: tuple[str, ...]
    device: Device
    to: str = "mindir"
    atc: AtcOptions = NO_OPTIONS

    @property
    def format(self) -> Format:
        """The result's format."""
        return FORMATS[self.to]

    @property
    def stem(self) -> str:
        """The result's name without its suffix; other dots in it are kept."""
        return self.output.name.removesuffix(self.format.suffix)

    @property
    def input_shape(self) -> str:
        """The shapes as MindSpore Lite's converters take them."""
        return format_input_shape(self.shapes)

    @property
    def config_text(self) -> str:
        """The content of the generated configuration file; "" if none is needed."""
        if self.target != "ascend" or self.precision is None:
            return ""
        return f"[ascend_context]\nprecision_mode={PRECISION_MODES[self.precision]}\n"

    @property
    def own_config(self) -> Path:
        """The path of the generated configuration file, beside the model."""
        return self.output.with_name(f"{self.stem}.cfg")

    @property
    def command_line(self) -> str:
        """The converter's command, as text that can be typed in a shell."""
        config = self.own_config if self.config_text else self.config_file
        return show_command(self.write_command(self.onnx.path, self.output.with_name(self.stem), config))

    def write_command(self, model: Path, output: Path, config: Path | None) -> list[str]:
        """Return the words of the converter's command; ``output`` has no suffix."""
        return self.format.write_command(self, model, output, config)

    def hash_recipe(self) -> str:
        """Return a hash of everything that the result depends on, except the ONNX file."""
        from . import cpu_rewrite

        parameters: list[Any] = [self.shapes, self.target, self.precision, self.converter.name, self.converter.version]
        parameters += [self.atc.words()] if self.to == "om" else []
        files = [file for file in (self.config_file, self.atc.insert_op_conf) if file]
        files += [Path(cpu_rewrite.__file__)] if self.target == "cpu" else []
        return hashlib.sha256(json.dumps([parameters, hash_files(files)]).encode()).hexdigest()


def prepare(request: Request, find_installed: Callable[[Format], Callable[[str | None], Converter]]) -> list[Job]:
    """Check a request; return a job for each batch size.

    Args:
        request: the user's request.
        find_installed: format -> worker_python -> the converter; it is called after all other checks.

    Raises:
        UsageError: if the request is invalid; nothing was started or written.
    """
    _check_fits_format(request)
    onnx = read_onnx(request.model)
    devices, target = _choose_target(request)
    _check_target(onnx, target, request)
    requested = parse_input_shape(request.input_shape)
    axes = find_batch_axes(onnx.inputs, request.batch_axes)
    check_input_shape(onnx.inputs, axes, requested)
    sizes = _choose_sizes(request, onnx, axes, requested, len(devices))
    first = Job(
        onnx,
        axes,
        sizes[0],
        {},
        Path(),
        target,
        request.precision,
        request.config_file,
        NO_CONVERTER,
        _shape_options(request, requested, axes),
        devices[0],
        request.to,
        _complete_atc(request, devices),
    )
    jobs = [
        replace(first, rows=rows, shapes=fill_shapes(onnx.inputs, axes, requested, rows), output=output)
        for rows, output in zip(sizes, _name_outputs(request, sizes), strict=True)
    ]
    for job in jobs:
        _check_batch_is_free(job)
    converter = find_installed(FORMATS[request.to])(request.worker_python)
    return [replace(job, converter=converter) for job in jobs]


def _choose_sizes(
    request: Request, onnx: OnnxFile, axes: Axes, requested: Mapping[str, Shape], devices: int
) -> list[int]:
    """Return the batch size of each result; of a model with several, the largest."""
    gears = request.atc.dynamic_batch_size
    if gears:
        check_dynamic_batch(axes, requested, request.batch_per_device)
        return [max(gears)]
    total_rows = find_total_rows(onnx.inputs, axes, requested)
    is_requested = any(
        requested[name][axis] > 0 for name, axis in axes.items() if name in requested and axis is not None
    )
    return divide_rows(total_rows, list(request.batch_per_device), devices, is_requested=is_requested)


def _choose_target(request: Request) -> tuple[list[Device], str]:
    """Return the devices that share the batch, and what is converted for."""
    targets = FORMATS[request.to].targets
    if request.target is not None:
        check_one_of("--target", request.target, targets)
    only = request.target or (targets[0] if len(targets) == 1 else None)
    if request.devices is not None:
        devices = parse_devices(request.devices)
    elif only is not None and (request.batch_per_device or request.atc.dynamic_batch_size):
        devices = [Device(only, 0)]
    else:
        from ascend_parallel.devices.discovery import discover

        devices = default_devices(discover())
    kinds = sorted({device.type for device in devices})
    devices_text = ", ".join(map(str, devices))
    target = only or (kinds[0] if kinds[0] in targets else None)
    if target is None:
        raise UsageError(
            f"the target cannot be determined from {devices_text}; use --target {' or --target '.join(targets)}"
        )
    if not set(kinds) <= set(DEVICE_TYPES[target]):
        raise UsageError(f"--devices {devices_text} cannot run a model for {target}: name devices of one type")
    return devices, target


def _check_target(onnx: OnnxFile, target: str, request: Request) -> None:
    """Check that the target supports the request; raises UsageError."""
    if onnx.opset > MAX_OPSET:
        raise UsageError(
            f"{onnx.path} has opset {onnx.opset}, but MindSpore Lite and CANN support {MAX_OPSET} at most; export it "
            "again, in PyTorch with torch.onnx.export(..., opset_version=16, dynamo=False)"
        )
    if target == "cpu":
        from .cpu_rewrite import check_operators, check_simplifier, check_size

        check_operators(onnx.operators)
        check_size(onnx.path, onnx.size_bytes, onnx.operators)
        check_simplifier(onnx.operators)
    _check_precision(target, request)
    if request.config_file is not None:
        check_file("--config-file", request.config_file)


def _check_precision(target: str, request: Request) -> None:
    if request.precision is None:
        return
    check_one_of("--precision", request.precision, PRECISION_MODES)
    if target == "cpu" and request.precision != "fp32":
        raise UsageError(
            f"--precision {request.precision} is not available on the CPU: MindSpore Lite's converter accepts fp16 for "
            "it, but stores float32; leave --precision out"
        )
    if request.config_file is not None:
        raise UsageError(
            f"--precision and --config-file were both given; write precision_mode={PRECISION_MODES[request.precision]} "
            f"under [ascend_context] in {request.config_file} and leave --precision out"
        )


def _check_fits_format(request: Request) -> None:
    """Check that no option is given that the format does not have; raises UsageError."""
    if request.calibration:
        raise UsageError("--calibration is for --to onnx --precision int8: leave it out")
    if request.to == "om":
        given = {"--precision": request.precision, "--config-file": request.config_file}
        instead = {"--precision": "use --precision-mode, such as force_fp16", "--config-file": "ATC has none"}
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"{option} has no effect with --to om: {instead[option]}")
        check_options(request.atc)
        return
    refuse_options(request.atc, request.to)


def _complete_atc(request: Request, devices: Sequence[Device]) -> AtcOptions:
    """Return the options of ATC, with the chip; raises UsageError where it is not known."""
    if request.to != "om" or request.atc.soc_version:
        return request.atc
    return request.atc._replace(soc_version=find_soc_version(devices))


def _name_outputs(request: Request, sizes: Sequence[int]) -> list[Path]:
    """Return the files to write: --output itself if it is a file, else NAME_bsROWS.mindir in that folder."""
    suffix = FORMATS[request.to].suffix
    gears = sorted(request.atc.dynamic_batch_size)
    names = ["-".join(map(str, gears))] if gears else list(map(str, sizes))
    if request.output.name.endswith(suffix):
        if request.name is not None:
            raise UsageError(f"--name and --output {request.output} both name the file; leave one of the two out")
        if len(sizes) > 1:
            raise UsageError(f"--output {request.output} is one file, for {len(sizes)} batch sizes; name a folder")
        outputs = [request.output]
    else:
        stem = request.model.stem if request.name is None else request.name
        if not stem or stem != os.path.basename(stem) or stem in (".", ".."):
            raise UsageError(f"--name {stem!r} is not a file name; set the folder with --output")
        outputs = [request.output / f"{stem}_bs{rows}{suffix}" for rows in names]
    for output in outputs:
        _check_can_be_written(output)
    return outputs


def _check_can_be_written(output: Path) -> None:
    """Check what can be known before."""
    check_may_be_made("--output:", output.parent)
    if output.is_dir():
        raise UsageError(f"--output: {output} is a folder; expected the name of a file")


def _shape_options(request: Request, requested: Mapping[str, Shape], axes: Axes) -> tuple[str, ...]:
    """Return the options to convert again for other devices; they leave the batch size open."""
    shapes = {
        name: tuple(-1 if axis == axes[name] else size for axis, size in enumerate(shape))
        for name, shape in requested.items()
    }
    words = [] if request.to == "mindir" else ["--to", request.to]
    words += ["--input-shape", format_input_shape(shapes)] if shapes else []
    for name, axis in request.batch_axes.items():
        words += ["--batch-axis", f"{name}={'none' if axis is None else axis}"]
    if request.atc.dynamic_batch_size:
        words += ["--dynamic-batch-size", ",".join(map(str, request.atc.dynamic_batch_size))]
    return tuple(words)


def _check_batch_is_free(job: Job) -> None:
    """Check that a fixed batch is not part of the graph: converters would silently write a wrong model."""
    import onnx

    fixed = {spec.shape[axis] for spec in job.onnx.inputs if (axis := job.axes[spec.name]) is not None}
    if fixed == {job.rows} or not all(isinstance(size, int) for size in fixed):
        return
    fixed_rows = {spec.name: spec.shape[0] for spec in job.onnx.outputs if spec.shape and spec.shape[0] in fixed}
    try:
        rows = _infer_rows(job.onnx, job.shapes)
    except onnx.shape_inference.InferenceError as error:
        with contextlib.suppress(onnx.shape_inference.InferenceError):
            _infer_rows(job.onnx, {spec.name: spec.shape for spec in job.onnx.inputs})
            raise _built_in_error(job, str(error).strip().splitlines()[-1]) from None
        return  # its shapes cannot be inferred with its own batch either
    for name, size in fixed_rows.items():
        if rows[name] == size:
            raise _built_in_error(job, f"its output {name!r} still has {size} rows")


def _infer_rows(onnx_file: OnnxFile, shapes: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Return the size of each output's axis 0 for inputs with these shapes; 0 if it cannot be inferred."""
    import onnx

    from .cpu_rewrite import fix_shapes

    model = onnx_file.load(weights=False)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > MAX_SHAPE_BYTES:
            tensor.ClearField("raw_data")
    fix_shapes(model, shapes)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.output
    dims = {value.name: value.type.tensor_type.shape.dim for value in inferred}
    return {name: sizes[0].dim_value if sizes else 0 for name, sizes in dims.items()}


def _built_in_error(job: Job, why: str) -> UsageError:
    return UsageError(
        f"{job.onnx.path} has its batch built into the graph and cannot be converted to {job.rows} rows: {why}; "
        "export it with an open batch axis (dynamic_axes), or with the batch of a device"
    )
