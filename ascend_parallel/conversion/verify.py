"""Whether a MINDIR file computes what its ONNX file does: both are run on the same random inputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ascend_parallel.checks import find_python
from ascend_parallel.errors import ConversionError, UsageError
from ascend_parallel.worker.engines import TensorSpec

from .converter import find_runtime
from .job import Job
from .shapes import Shape

SEED = 0
#: Target -> the largest difference that passes, as a share of the output's range. On the CPU both compute in float32,
#: where Stable Diffusion's models differ by 3e-4 at most; Ascend's default is float16, with steps of 1e-3.
TOLERANCES = {"ascend": 2e-2, "cpu": 1e-3}
#: Operators through which ids go unchanged on their way to a table.
_CARRIERS = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


class Difference(NamedTuple):
    """The largest difference of one output; ``share`` is it divided by the range of the ONNX model's values."""

    output: str
    largest: float
    share: float

    def __str__(self) -> str:
        return f"{self.output}: largest difference {self.largest:.2g}, {self.share:.2g} of its range"


def check_tolerance(tolerance: float | None, *, verify: bool) -> None:
    """Check that it is a number of 0 or more, and of use; raises UsageError."""
    if tolerance is not None and not verify:
        raise UsageError("--tolerance is of no use without --verify: add that, or leave it out")
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"--tolerance is {tolerance}; expected a number of 0 or more, such as 0.001")


def check_can_verify(job: Job, worker_python: str | None) -> None:
    """Check, before anything is converted, that both models can be run here.

    Raises:
        UsageError: a runtime or a device is missing.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise UsageError("--verify runs the ONNX file with onnxruntime: pip install 'ascend-parallel[cpu]'")
    if job.device.type != "cpu":
        from ascend_parallel.devices.discovery import discover

        if job.device not in [found.device for found in discover().devices]:
            raise UsageError(
                f"--verify runs the MINDIR file on {job.device}, and this machine has none (see ascend-parallel "
                "devices); leave it out, or convert on the machine that has the device"
            )
    find_runtime(find_python(worker_python), "--verify runs the MINDIR file with MindSpore Lite")


def compare(job: Job, mindir: Path, worker_python: str | None, tolerance: float | None) -> list[Difference]:
    """Run both models on random inputs; return the largest difference of each output.

    Args:
        job: what was converted.
        mindir: the result.
        worker_python: the interpreter that has mindspore_lite.
        tolerance: the largest difference that passes, as a share of the output's range; None: by the target.

    Raises:
        ConversionError: an output differs by more.
    """
    feeds = make_feeds(job)
    wanted = _run(job.onnx.path, feeds, job, devices="cpu:0")
    found = _run(mindir, feeds, job, devices=str(job.device), worker_python=worker_python)
    differences = [_differ(name, wanted[name], value) for name, value in _pair(wanted, found)]
    limit = TOLERANCES[job.target] if tolerance is None else tolerance
    for difference in differences:
        if not difference.share <= limit:  # NaN, too
            raise ConversionError(
                f"{job.output} does not compute what {job.onnx.path} does: {difference}; the tolerance is {limit:g}"
            )
    return differences


def make_feeds(job: Job) -> dict[str, Any]:
    """Return random inputs for the ONNX model: ids of the tables that they look up, other whole numbers 0 or 1."""
    random = np.random.default_rng(SEED)
    tables = find_tables(job.onnx.load(weights=False).graph)
    return {
        spec.name: _draw(random, np.dtype(spec.dtype), _feed_shape(spec, job), tables.get(spec.name, 2))
        for spec in job.onnx.inputs
    }


def _feed_shape(spec: TensorSpec, job: Job) -> Shape:
    """Return a shape that the ONNX model takes: its own batch where it fixes that, else that of the MINDIR file."""
    return tuple(
        size if isinstance(size, int) else filled
        for size, filled in zip(spec.shape, job.shapes[spec.name], strict=True)
    )


def _draw(random: np.random.Generator, dtype: np.dtype[Any], shape: Shape, limit: int) -> Any:
    if dtype.kind in "iub":
        return random.integers(0, 2 if dtype.kind == "b" else limit, shape).astype(dtype)
    return random.standard_normal(shape).astype(np.float32).astype(dtype)  # what MindSpore Lite takes for a float64


def find_tables(graph: Any) -> dict[str, int]:
    """Return input name -> rows of the smallest table that it looks up with a Gather."""
    sizes = {tensor.name: tensor.dims for tensor in graph.initializer}
    origin = {value.name: value.name for value in graph.input}
    tables: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in _CARRIERS and node.input[0] in origin:
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
    """Return an input in the model's dtype where that is a smaller float: MindSpore Lite has float32 for float64."""
    return array.astype(spec.dtype) if array.dtype.kind == "f" else array


def _pair(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the ONNX model's names with the MINDIR model's values: by name, or in their order where names differ."""
    if set(wanted) == set(found):
        yield from ((name, found[name]) for name in wanted)
    elif len(wanted) == len(found):
        yield from zip(wanted, found.values(), strict=True)
    else:
        raise ConversionError(f"the ONNX file gives {', '.join(wanted)}; the MINDIR file {', '.join(found)}")


def _differ(name: str, wanted: Any, found: Any) -> Difference:
    if wanted.shape != found.shape:
        raise ConversionError(
            f"the output {name!r} has shape {found.shape} in the MINDIR file, {wanted.shape} in the ONNX file"
        )
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    if not wanted.size:
        return Difference(name, 0.0, 0.0)
    same = (wanted == found) | (np.isnan(wanted) & np.isnan(found))  # infinities, too
    with np.errstate(invalid="ignore"):
        largest = float(np.where(same, 0.0, np.abs(wanted - found)).max())
    return Difference(name, largest, largest / _range(wanted))


def _range(values: Any) -> float:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 1.0
    return float(np.ptp(finite)) or float(np.abs(finite).max()) or 1.0
