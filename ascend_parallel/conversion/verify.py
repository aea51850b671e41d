"""Verifies a converted file: it and its ONNX file are run on the same random inputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ascend_parallel.checks import find_python
from ascend_parallel.engine_list import list_engines
from ascend_parallel.errors import ConversionError, UsageError
from ascend_parallel.worker.engines import TensorSpec

from .converter import find_runtime
from .job import Job
from .shapes import Shape

if TYPE_CHECKING:
    from .to_onnx import OnnxJob

SEED = 0
#: Target -> the accepted difference, relative to the output's range. On the CPU both models compute in float32, and
#: Stable Diffusion's models differ by at most 3e-4. Ascend's default is float16, with a precision of 1e-3.
TOLERANCES = {"ascend": 2e-2, "cpu": 1e-3}
#: Operators that do not change ids on their way to a table.
_PASS_THROUGH = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


class Difference(NamedTuple):
    """The largest difference of one output; ``share`` is relative to the range of the ONNX model's values."""

    output: str
    largest: float
    share: float

    def __str__(self) -> str:
        return f"{self.output}: largest difference {self.largest:.2g}, {self.share:.2g} of its range"


def check_tolerance(tolerance: float | None, *, verify: bool) -> None:
    """Check that the tolerance is a number of 0 or more, and is used; raises UsageError."""
    if tolerance is not None and not verify:
        raise UsageError("--tolerance has no effect without --verify: add --verify, or leave --tolerance out")
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"--tolerance is {tolerance}; expected a number of 0 or more, such as 0.001")


def check_can_verify(job: Job, worker_python: str | None) -> None:
    """Check, before the conversion, that both models can be run on this machine.

    Raises:
        UsageError: if a runtime or a device is missing.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise UsageError("--verify runs the ONNX file with onnxruntime: pip install 'ascend-parallel[cpu]'")
    if job.atc.insert_op_conf is not None:
        raise UsageError(
            "--verify gives both models the same inputs, and AIPP (--insert-op-conf) changes them: leave one out"
        )
    kind = job.format.kind
    if job.device.type != "cpu":
        from ascend_parallel.devices.discovery import discover

        if job.device not in [found.device for found in discover().devices]:
            raise UsageError(
                f"--verify runs the {kind} on {job.device}, which this machine does not have (see ascend-parallel "
                "devices); leave --verify out, or convert on a machine with this device"
            )
    if job.to == "mindir":
        find_runtime(find_python(worker_python), "--verify runs the MINDIR file with MindSpore Lite")
        return
    (engine,) = list_engines([job.to], worker_python)
    runtime = engine.worker or engine.here
    if runtime.error:
        raise UsageError(
            f"--verify runs the {kind} with {job.format.runtime}, and {runtime.python} cannot import it "
            f"({runtime.error}); {engine.engine.install}"
        )


def compare(job: Job, made: Path, worker_python: str | None, tolerance: float | None) -> list[Difference]:
    """Run both models on random inputs; return the largest difference of each output.

    Args:
        job: the conversion.
        made: its result.
        worker_python: the Python interpreter that has mindspore_lite.
        tolerance: the accepted difference, relative to the output's range; None: the default of the target.

    Raises:
        ConversionError: if an output differs by more.
    """
    feeds = make_feeds(job)
    expected = _run(job.onnx.path, feeds, job, devices="cpu:0")
    actual = _run(made, feeds, job, devices=str(job.device), worker_python=worker_python)
    differences = [_difference(name, expected[name], value) for name, value in _pair(expected, actual)]
    limit = TOLERANCES[job.target] if tolerance is None else tolerance
    for difference in differences:
        if not difference.share <= limit:  # also true for NaN
            raise ConversionError(
                f"{job.output} does not compute the same as {job.onnx.path}: {difference}; the tolerance is {limit:g}"
            )
    return differences


def make_feeds(job: Job | OnnxJob) -> dict[str, Any]:
    """Return random inputs for the ONNX model: ids within the tables that they index, other integers 0 or 1."""
    random = np.random.default_rng(SEED)
    tables = find_tables(job.onnx.load(weights=False).graph)
    return {
        spec.name: _random_array(random, np.dtype(spec.dtype), _feed_shape(spec, job), tables.get(spec.name, 2))
        for spec in job.onnx.inputs
    }


def _feed_shape(spec: TensorSpec, job: Job | OnnxJob) -> Shape:
    """Return a shape that the ONNX model accepts: its own sizes where it fixes them, else those of the result."""
    return tuple(
        size if isinstance(size, int) else filled
        for size, filled in zip(spec.shape, job.shapes[spec.name], strict=True)
    )


def _random_array(random: np.random.Generator, dtype: np.dtype[Any], shape: Shape, limit: int) -> Any:
    if dtype.kind in "iub":
        return random.integers(0, 2 if dtype.kind == "b" else limit, shape).astype(dtype)
    return random.standard_normal(shape).astype(np.float32).astype(dtype)  # MindSpore Lite converts float64 to float32


def find_tables(graph: Any) -> dict[str, int]:
    """Return input name -> rows of the smallest table that a Gather indexes with it."""
    sizes = {tensor.name: tensor.dims for tensor in graph.initializer}
    origin = {value.name: value.name for value in graph.input}
    tables: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in _PASS_THROUGH and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        if node.op_type == "Gather" and node.input[0] in sizes and node.input[1] in origin:
            axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
            name, rows = origin[node.input[1]], sizes[node.input[0]][axis]
            tables[name] = min(rows, tables.get(name, rows))
    return tables


def _run(model: Path, feeds: Mapping[str, Any], job: Job, **options: Any) -> dict[str, Any]:
    from ascend_parallel import ParallelPredictUtils

    with ParallelPredictUtils(model, batch_axes=job.axes, warmup=0, **options) as runner:
        return dict(runner.predict({spec.name: _fit(feeds[spec.name], spec) for spec in runner.inputs or ()}))


def _fit(array: Any, spec: TensorSpec) -> Any:
    """Return an input with the model's float dtype: MindSpore Lite has float32 for float64."""
    return array.astype(spec.dtype) if array.dtype.kind == "f" else array


def _pair(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the ONNX model's output names with the converted one's values, by name or, if names differ, by order."""
    if set(expected) == set(actual):
        yield from ((name, actual[name]) for name in expected)
    elif len(expected) == len(actual):
        yield from zip(expected, actual.values(), strict=True)
    else:
        raise ConversionError(
            f"the ONNX file has the outputs {', '.join(expected)}, the converted file {', '.join(actual)}"
        )


def _difference(name: str, expected: Any, actual: Any) -> Difference:
    if expected.shape != actual.shape:
        raise ConversionError(
            f"the output {name!r} has shape {actual.shape} in the converted file, {expected.shape} in the ONNX file"
        )
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    if not expected.size:
        return Difference(name, 0.0, 0.0)
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))  # infinities compare equal, too
    with np.errstate(invalid="ignore"):
        largest = float(np.where(same, 0.0, np.abs(expected - actual)).max())
    return Difference(name, largest, largest / _range(expected))


def _range(values: Any) -> float:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 1.0
    return float(np.ptp(finite)) or float(np.abs(finite).max()) or 1.0
