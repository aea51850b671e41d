"""ATC, CANN's converter to OM files: find it, write its command, and report its failures in one sentence.

Source of its options: CANN's "ATC Instructions". Nothing here has run on a machine with CANN yet.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ascend_parallel.checks import check_file, check_one_of, check_path, check_type
from ascend_parallel.devices import Device
from ascend_parallel.errors import UsageError
from ascend_parallel.model_manifest import hash_files

from .converter import Converter, exit_text, join_shortened
from .shapes import UNSPECIFIED, Axes, Shape, format_input_shape

COMMAND = "atc"
#: ATC's number for ONNX.
FRAMEWORK = 5
PRECISION_MODES = (
    "force_fp16",
    "force_fp32",
    "cube_fp16in_fp32out",
    "allow_fp32_to_fp16",
    "allow_mix_precision",
    "allow_mix_precision_fp16",
    "allow_mix_precision_bf16",
    "must_keep_origin_dtype",
)
#: Limits of --dynamic_batch_size.
MIN_GEARS, MAX_GEARS, MAX_GEAR_ROWS = 2, 100, 2048
INSTALL = "install CANN's toolkit, which needs no Ascend device for this, and source its set_env.sh"
_SOC_VERSION = re.compile(r"Ascend\w+")


class AtcOptions(NamedTuple):
    """What only ATC has.

    Attributes:
        soc_version: the chip, such as "Ascend310P3".
        dynamic_batch_size: the batch sizes of one model; empty for a model of one size.
        precision_mode: one of :data:`PRECISION_MODES`; None: ATC's default.
        insert_op_conf: the configuration file of AIPP.
    """

    soc_version: str = ""
    dynamic_batch_size: tuple[int, ...] = ()
    precision_mode: str | None = None
    insert_op_conf: Path | None = None

    def words(self) -> list[str]:
        """Return the words of ATC's command."""
        words = [f"--soc_version={self.soc_version}"]
        if self.dynamic_batch_size:
            words.append(f"--dynamic_batch_size={','.join(map(str, self.dynamic_batch_size))}")
        words += [f"--precision_mode={self.precision_mode}"] if self.precision_mode else []
        words += [f"--insert_op_conf={self.insert_op_conf}"] if self.insert_op_conf else []
        return words


NO_OPTIONS = AtcOptions()


# ---- finding it


def find_atc(worker_python: str | None) -> Converter:
    """Return ATC; raises UsageError where it is not on PATH."""
    found = shutil.which(COMMAND)
    if found is None:
        raise UsageError(f"there is no converter: {COMMAND} is not on PATH; {INSTALL}")
    path = Path(found).resolve()
    match = re.search(r"/(\d+\.\d[\w.]*)/", str(path))
    return Converter(COMMAND, (COMMAND,), f"{match[1] if match else 'unknown'} ({hash_files([path])[:12]})")


def assume_atc(worker_python: str | None) -> Converter:
    """Return ATC for showing commands, whether it is installed or not."""
    return Converter(COMMAND, (COMMAND,), "")


# ---- checks


def read_options(options: Mapping[str, Any]) -> AtcOptions:
    """Return the options that a caller named; raises UsageError where there is no such option, or it is of no use."""
    check_type("atc_options", options, Mapping, "a dict of option -> value")
    for name in options:
        check_one_of("an option of atc_options", name, AtcOptions._fields)
    given = {name: value for name, value in options.items() if value not in (None, "")}
    for name in ("soc_version", "precision_mode"):
        check_type(name, given.get(name, ""), str, "a text")
    sizes = given.get("dynamic_batch_size", ())
    check_type("dynamic_batch_size", sizes, (list, tuple), "a list of numbers, such as [1, 2, 4, 8]")
    given["dynamic_batch_size"] = tuple(sizes)
    if "insert_op_conf" in given:
        check_path("insert_op_conf", given["insert_op_conf"], "a configuration file of AIPP")
        given["insert_op_conf"] = Path(given["insert_op_conf"])
    return AtcOptions(**given)


def check_options(options: AtcOptions) -> None:
    """Check what can be checked without the model; raises UsageError."""
    if options.precision_mode is not None:
        check_one_of("--precision-mode", options.precision_mode, PRECISION_MODES)
    if options.insert_op_conf is not None:
        check_file("--insert-op-conf", options.insert_op_conf)
    sizes = options.dynamic_batch_size
    is_valid = MIN_GEARS <= len(set(sizes)) == len(sizes) <= MAX_GEARS and all(
        type(s) is int and 0 < s <= MAX_GEAR_ROWS for s in sizes
    )
    if sizes and not is_valid:
        raise UsageError(
            f"--dynamic-batch-size is {','.join(map(str, sizes))}; expected {MIN_GEARS} to {MAX_GEARS} numbers from 1 "
            f"to {MAX_GEAR_ROWS}, each once, such as 1,2,4,8"
        )
    if options.soc_version and not _SOC_VERSION.fullmatch(options.soc_version):
        raise UsageError(f"--soc-version is {options.soc_version!r}; expected a chip such as Ascend310P3")


def refuse_options(options: AtcOptions, to: str) -> None:
    """Refuse options that another format does not have; raises UsageError."""
    for name in (name for name in options._fields if getattr(options, name)):
        option = f"--{name.replace('_', '-')}"
        raise UsageError(f"{option} is for OM files, and --to is {to}: leave {option} out, or use --to om")


def check_dynamic_batch(axes: Axes, requested: Mapping[str, Shape], batch_per_device: Sequence[int]) -> None:
    """Check that a model's batch can be left open; raises UsageError."""
    if batch_per_device:
        raise UsageError(
            "--dynamic-batch-size and --batch-per-device were both given; the first makes one model of several batch "
            "sizes, the second a model of each: leave one of them out"
        )
    for name, axis in axes.items():
        if axis not in (0, None):
            raise UsageError(f"--dynamic-batch-size needs the batch on axis 0, but {name!r} has it on axis {axis}")
        if axis == 0 and name in requested and requested[name][0] != UNSPECIFIED:
            raise UsageError(
                f"--input-shape gives {name!r} a batch of {requested[name][0]}; with --dynamic-batch-size write "
                f"{UNSPECIFIED} there"
            )


def find_soc_version(devices: Sequence[Device]) -> str:
    """Return the chip of these devices as ATC names it, from what npu-smi tells; raises UsageError."""
    from ascend_parallel.devices.discovery import discover

    names = {found.device: found.name for found in discover().devices}
    found = sorted({to_soc_version(name) for device in devices if (name := names.get(device))})
    if len(found) == 1:
        return found[0]
    where = ", ".join(map(str, devices))
    why = f"{where} are different chips ({', '.join(found)})" if found else f"npu-smi tells no chip of {where}"
    raise UsageError(f"{why}: name the one to convert for, such as --soc-version Ascend310P3")


def to_soc_version(name: str) -> str:
    """Return ATC's name of a chip: "310P3" and "Ascend 310P3" of npu-smi are "Ascend310P3"."""
    joined = "".join(name.split())
    return joined if joined.startswith("Ascend") else f"Ascend{joined}"


# ---- the command, and what comes of it


def write_command(
    converter: Converter, model: Path, output: Path, shapes: Mapping[str, Shape], axes: Axes, options: AtcOptions
) -> list[str]:
    """Return the command of a conversion; ``output`` has no suffix."""
    if options.dynamic_batch_size:
        shapes = {name: (UNSPECIFIED, *shape[1:]) if axes[name] == 0 else shape for name, shape in shapes.items()}
    input_shape = format_input_shape(shapes)
    words = [*converter.program, f"--framework={FRAMEWORK}", f"--model={model}", f"--output={output}"]
    words += [f"--input_shape={input_shape}"] if input_shape else []
    return words + options.words()


_ERROR_LINE = re.compile(r"(E[A-Z]?\d{4,5}): (?:\[PID: \d+\] )?(?:[\d.:-]{20,} )?(?P<text>.+)")
_SOLUTION = re.compile(r"\s*Solution: (?P<text>.+)")
#: Text in ATC's output -> what to do.
_KNOWN = {
    "error while loading shared libraries: libascend_hal": "the driver's libraries are not found: add CANN's "
    "<arch>-linux/devlib to LD_LIBRARY_PATH on a machine without a driver",
    "error while loading shared libraries": "CANN's libraries are not found: source CANN's set_env.sh",
    "Failed to import Python module": "CANN's compiler needs Python packages: pip install the one that is missing into "
    "the Python that set_env.sh names",
    "EZ3003": "the chip, or this CANN, has no kernel for an operator",
    "E19010": "this CANN cannot read an operator, often of a newer opset: export the model again with an older one",
}


def describe_failure(log: str, exit_code: int) -> str:
    """Return the cause of a failed conversion, from ATC's output, as one line: error codes first."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [f"{match[1]}: {match['text']}" for line in lines if (match := _ERROR_LINE.match(line))]
    solutions = [match["text"] for line in lines if (match := _SOLUTION.match(line))]
    advice = next((text for word, text in _KNOWN.items() if word in log), None)
    shown = [*([advice] if advice else []), *errors[:1], *solutions[:1]]
    return join_shortened(shown or lines[-1:]) or f"it printed nothing ({exit_text(exit_code)})"
