"""Memory of 1, 2 and 3 instances of a model of 100 MB: threads, processes that share weights, plain processes.

    python benchmarks/memory.py

The figures are PSS (proportional set size: shared pages count in proportion), summed over a runner's workers after each
instance has predicted. The ratios compare several instances with one, after subtracting the memory of as many workers
without weights. Those run at the same time, so that libraries count the same on both sides. If MSLITE_PYTHON names a
Python that has mindspore_lite, its instances are measured, too.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from ascend_parallel import ParallelPredictUtils

COUNTS = (1, 2, 3)
#: Calls with one row per instance, so that each instance runs.
CALLS = 5
CONVERT = """
import sys
import mindspore_lite
converter = mindspore_lite.Converter()
converter.save_type = mindspore_lite.ModelType.MINDIR
converter.convert(mindspore_lite.FmkType.ONNX, sys.argv[1], sys.argv[2])
"""


class Variant(NamedTuple):
    """One way to run several instances; ``goal``: the accepted memory of N instances relative to one, weights only."""

    name: str
    are_processes: bool
    share_weights: bool
    goal: float | None


VARIANTS = (
    Variant("threads (instances=N)", False, False, 1.03),
    Variant("processes, share_weights=True", True, True, 1.10),
    Variant("processes, plain", True, False, None),
)


def save(path: Path, kind: str, layers: int, weights: tuple[int, ...], shape: list[int], **attributes: Any) -> Path:
    """Write a chain of MatMul or Conv nodes, each with its own weights and followed by a Relu."""
    names = ["x", *[f"x{i}" for i in range(1, layers)], "y"]
    nodes, initializers = [], []
    for i in range(layers):
        values = np.random.default_rng(i).standard_normal(weights, np.float32) / np.float32(np.prod(weights[1:]) ** 0.5)
        initializers.append(numpy_helper.from_array(values, f"w{i}"))
        nodes.append(helper.make_node(kind, [names[i], f"w{i}"], [f"p{i}"], **attributes))
        nodes.append(helper.make_node("Relu", [f"p{i}"], [names[i + 1]]))
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("x", "y")]
    graph = helper.make_graph(nodes, kind, *ends, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def make_models(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return name -> (a model of about 100 MB, the same model with almost no weights)."""
    same = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1}
    return {
        "MatMul, 100 MiB": (
            save(folder / "products.onnx", "MatMul", 25, (1024, 1024), [1, 1024]),
            save(folder / "no_products.onnx", "MatMul", 1, (4, 4), [1, 4]),
        ),
        "Conv, 99 MiB": (
            save(folder / "convolutions.onnx", "Conv", 11, (512, 512, 3, 3), [1, 512, 4, 4], **same),
            save(folder / "no_convolutions.onnx", "Conv", 1, (4, 4, 3, 3), [1, 4, 4, 4], **same),
        ),
    }


def convert(path: Path, python: str) -> Path:
    """Convert an ONNX model to a MINDIR file beside it, and return that."""
    target = path.with_suffix("")
    subprocess.run([python, "-c", CONVERT, str(path), str(target)], check=True, capture_output=True)
    return target.with_suffix(".mindir")


def pss_bytes(pid: int) -> int:
    """Return a process's memory, with shared pages counted in proportion."""
    (line,) = [line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) << 10


def sum_mb(runner: ParallelPredictUtils) -> float:
    """Return the memory of a runner's workers, in MB."""
    return sum(pss_bytes(worker["pid"]) for worker in runner.stats()["workers"].values()) / 1e6


def measure(model: Path, empty: Path, variant: Variant, count: int, python: str | None) -> tuple[float, float]:
    """Return the MB of ``count`` instances of a model, and of as many instances of the model without weights."""
    options: dict[str, Any] = {"share_weights": variant.share_weights, "worker_python": python, "chunk_size": 1}
    options["devices"] = f"cpu:0-{count - 1}" if variant.are_processes else "cpu:0"
    options["instances"] = 1 if variant.are_processes else count
    options["engine_options"] = {"threads": 1}
    with ParallelPredictUtils(empty, **options) as empty_runner, ParallelPredictUtils(model, **options) as runner:
        for either in (empty_runner, runner):
            x = np.ones((count, *either.inputs[0].shape[1:]), np.float32)
            for _ in range(CALLS):
                either.predict([x])
        return sum_mb(runner), sum_mb(empty_runner)


def add_rows(table: Table, engine: str, name: str, model: Path, empty: Path, python: str | None) -> None:
    """Measure all variants of an engine with a model."""
    for variant in VARIANTS:
        if python is not None and variant.share_weights:
            continue  # only onnxruntime supports it
        measured = [measure(model, empty, variant, count, python) for count in COUNTS]
        weights = [total_mb - empty_mb for total_mb, empty_mb in measured]
        table.add_row(
            f"{engine}, {name}",
            variant.name,
            *[f"{total_mb:.0f}" for total_mb, _ in measured],
            *[f"{weight / weights[0]:.3f}" for weight in weights[1:]],
            "-" if variant.goal is None else f"{variant.goal:.2f}",
        )


def main() -> None:
    """Print the table."""
    table = Table(
        title="memory of several instances: summed PSS in MB, and weights only as multiples of one instance's"
    )
    for title in ("model", "instances", *[f"{n}" for n in COUNTS], *[f"{n} / 1" for n in COUNTS[1:]], "goal"):
        table.add_column(title, justify="left" if title in ("model", "instances") else "right")
    python = os.environ.get("MSLITE_PYTHON")
    with tempfile.TemporaryDirectory(prefix="ascend-parallel-memory-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # an empty cache; the user's own is not used
        for name, (model, empty) in make_models(Path(folder)).items():
            add_rows(table, "onnxruntime", name, model, empty, None)
            if python:
                add_rows(table, "mslite", name, convert(model, python), convert(empty, python), python)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
