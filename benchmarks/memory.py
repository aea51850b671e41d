"""Memory of 1, 2 and 3 instances of a model of 100 MB: threads, processes that share weights, plain processes.

    python benchmarks/memory.py

Figures are PSS (what a process uses, each page that it shares with others counted by its share), summed over a runner's
workers, when each instance has predicted. Ratios are those of three instances to one, less what as many workers without
weights take; those run at the same time, so that libraries count the same on both sides. With MSLITE_PYTHON naming a
Python that has mindspore_lite, its instances are measured too.
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
#: Calls of a row for each instance, so that every one of them has run.
CALLS = 5
CONVERT = """
import sys
import mindspore_lite
converter = mindspore_lite.Converter()
converter.save_type = mindspore_lite.ModelType.MINDIR
converter.convert(mindspore_lite.FmkType.ONNX, sys.argv[1], sys.argv[2])
"""


class Variant(NamedTuple):
    """One way to run several instances; ``goal``: times the memory of one that they may take, weights only."""

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
    """Write a chain of MatMul or Conv nodes, each with weights of its own and a Relu after it."""
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
    """Return name -> (a model of about 100 MB, the same with next to no weights)."""
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
    """Return an ONNX model's MINDIR file, next to it."""
    target = path.with_suffix("")
    subprocess.run([python, "-c", CONVERT, str(path), str(target)], check=True, capture_output=True)
    return target.with_suffix(".mindir")


def pss_bytes(pid: int) -> int:
    """Return a process's memory, each page that it shares with others counted by its share."""
    (line,) = [line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) << 10


def sum_mb(runner: ParallelPredictUtils) -> float:
    """Return the memory of a runner's workers."""
    return sum(pss_bytes(worker["pid"]) for worker in runner.stats()["workers"].values()) / 1e6


def measure(model: Path, empty: Path, variant: Variant, count: int, python: str | None) -> tuple[float, float]:
    """Return MB of so many instances of a model, and of as many of one without weights."""
    options: dict[str, Any] = {"share_weights": variant.share_weights, "worker_python": python, "chunk_size": 1}
    options["devices"] = f"cpu:0-{count - 1}" if variant.are_processes else "cpu:0"
    options["instances"] = 1 if variant.are_processes else count
    options["engine_options"] = {"threads": 1}
    with ParallelPredictUtils(empty, **options) as nothing, ParallelPredictUtils(model, **options) as runner:
        for each in (nothing, runner):
            x = np.ones((count, *each.inputs[0].shape[1:]), np.float32)
            for _ in range(CALLS):
                each.predict([x])
        return sum_mb(runner), sum_mb(nothing)


def add_rows(table: Table, engine: str, name: str, model: Path, empty: Path, python: str | None) -> None:
    """Measure all that an engine can do with a model."""
    for variant in VARIANTS:
        if python is not None and variant.share_weights:
            continue  # onnxruntime's alone
        measured = [measure(model, empty, variant, count, python) for count in COUNTS]
        weights = [full - nothing for full, nothing in measured]
        table.add_row(
            f"{engine}, {name}",
            variant.name,
            *[f"{full:.0f}" for full, _ in measured],
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
        os.environ["XDG_CACHE_HOME"] = folder  # a cold cache, and nothing left in the user's own
        for name, (model, empty) in make_models(Path(folder)).items():
            add_rows(table, "onnxruntime", name, model, empty, None)
            if python:
                add_rows(table, "mslite", name, convert(model, python), convert(empty, python), python)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
