"""What an ONNX file can be converted to: one entry for each value of ``--to``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ascend_parallel.errors import ConversionError

from . import atc, converter
from .converter import Converter

if TYPE_CHECKING:
    from .job import Job


class Format(NamedTuple):
    """A kind of result, and the converter that makes it.

    Attributes:
        suffix: of the results.
        kind: what a result is called in messages.
        maker: whose converter it is, in messages.
        targets: the values of ``--target``.
        runtime: what runs a result, in messages.
        find_converter: worker_python -> the installed converter; raises UsageError.
        assume_converter: the same for showing commands only.
        write_command: job, ONNX file, output without suffix, configuration file or None -> the words of the command.
        collect: job, folder with what the converter wrote -> the files, the result first; raises ConversionError.
        describe_failure: the converter's output, its exit code -> the cause in one line.
    """

    suffix: str
    kind: str
    maker: str
    targets: tuple[str, ...]
    runtime: str
    find_converter: Callable[[str | None], Converter]
    assume_converter: Callable[[str | None], Converter]
    write_command: Callable[[Job, Path, Path, Path | None], list[str]]
    collect: Callable[[Job, Path], list[Path]]
    describe_failure: Callable[[str, int], str]


def _write_mindir_command(job: Job, model: Path, output: Path, config: Path | None) -> list[str]:
    return converter.write_command(
        job.converter, model, output, input_shape=job.input_shape, target=job.target, config=config
    )


def _collect_mindir(job: Job, folder: Path) -> list[Path]:
    result = folder / job.output.name
    graph = folder / f"{job.stem}_graph{result.suffix}"  # of a model above 2 GB, whose weights are in STEM_variables
    if graph.exists():
        graph.replace(result)  # the graph refers to the weights' file, not the other way round
    hint = "is it the converter of MindSpore Lite's package for edge devices, which writes .ms files?"
    return _result_first(job, result, hint)


def _write_om_command(job: Job, model: Path, output: Path, config: Path | None) -> list[str]:
    return atc.write_command(job.converter, model, output, job.shapes, job.axes, job.atc)


def _collect_om(job: Job, folder: Path) -> list[Path]:
    result = folder / job.output.name
    named_by_system = list(folder.glob(f"{job.stem}_linux_*{result.suffix}"))  # some versions add system and processor
    if len(named_by_system) == 1 and not result.exists():
        named_by_system[0].replace(result)
    return _result_first(job, result, "though ATC reported success")


def _result_first(job: Job, result: Path, hint: str) -> list[Path]:
    outputs = sorted(result.parent.iterdir())
    if result in outputs:
        return [result, *(other for other in outputs if other != result)]
    names = ", ".join(file.name for file in outputs) or "nothing"
    raise ConversionError(f"the converter wrote no {result.name} for {job.onnx.path} (it wrote {names}); {hint}")


#: ``--to`` -> the format; the first is the default.
FORMATS = {
    "mindir": Format(
        suffix=".mindir",
        kind="MINDIR file",
        maker="MindSpore Lite",
        targets=("ascend", "cpu"),
        runtime="MindSpore Lite",
        find_converter=converter.find_converter,
        assume_converter=converter.assume_converter,
        write_command=_write_mindir_command,
        collect=_collect_mindir,
        describe_failure=converter.describe_failure,
    ),
    "om": Format(
        suffix=".om",
        kind="OM file",
        maker="ATC",
        targets=("ascend",),
        runtime="pyACL",
        find_converter=atc.find_atc,
        assume_converter=atc.assume_atc,
        write_command=_write_om_command,
        collect=_collect_om,
        describe_failure=atc.describe_failure,
    ),
}
