"""One GPU: a step of Stable Diffusion 2.1's UNet at its real size, called directly and through workers.

The weights are random, in bfloat16; only torch is needed. A step has two rows, as with classifier-free guidance.
"Directly" calls the same object in this process, with numpy arrays in and out. The additional time of a step through
workers is host overhead. With two instances, each computes one row on the same GPU.

    python benchmarks/gpu.py [--steps 50] [--rounds 5] [--trace gpu-trace.json]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from ascend_parallel import ParallelPredictUtils

#: Loaded by path, also in the workers.
UNET = Path(__file__).resolve().with_name("sd21_unet.py")
ROWS = 2
INSTANCES = (1, 2)
WARM_UP_STEPS = 3
#: bfloat16 has 8 significant bits, and a GPU sums up one row in another order than two rows.
LARGEST_DIFFERENCE = 0.05


class Measured(NamedTuple):
    """The median times of a step with one variant, in ms: one by one, in a stream, and in the engine."""

    title: str
    step_ms: float
    stream_ms: float
    engine_ms: float | None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50, help="steps per round (default: 50)")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default: 5)")
    parser.add_argument("--trace", type=Path, help="write a timeline of the variant with two instances, for Perfetto")
    arguments = parser.parse_args()
    problem = find_problem()
    if problem:
        sys.exit(f"error: {problem}")
    import torch

    check_size()
    measured = measure("gpu:0", None, arguments.steps, arguments.rounds, arguments.trace)
    name = torch.cuda.get_device_name(0)
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"
    Console(width=120).print(
        tabulate(measured, f"SD 2.1's UNet, {ROWS} rows of 64 x 64, bfloat16, on {name} ({versions})")
    )


def find_problem() -> str | None:
    """Return why the benchmark cannot run here, in one sentence, or None."""
    if importlib.util.find_spec("torch") is None:
        return f"torch is not installed for {sys.executable}; this benchmark needs it, and an NVIDIA GPU"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU (torch.cuda.is_available() is False); this benchmark needs one"
    return None


def check_size() -> None:
    """Check that the UNet has the size of the original; raises RuntimeError."""
    unet = load_unet()
    count = unet.count_parameters(unet.Sizes())
    if abs(count - unet.PARAMETERS) > unet.PARAMETERS / 100:
        raise RuntimeError(f"the UNet has {count} parameters; the original has {unet.PARAMETERS}")


def load_unet() -> Any:
    """Return the module of the UNet."""
    sys.path.insert(0, str(UNET.parent))
    try:
        return importlib.import_module(UNET.stem)
    finally:
        sys.path.remove(str(UNET.parent))


def measure(
    device: str, sizes: Mapping[str, Any] | None, steps: int, rounds: int, trace: Path | None
) -> list[Measured]:
    """Return the times of a step directly and through one and two instances, measured in alternating rounds.

    Raises RuntimeError if the workers' results differ from those of the direct call.
    """
    unet = load_unet()
    inputs = unet.inputs_for(unet.Sizes(**(sizes or {})), ROWS)
    model = unet.make_unet(device, sizes)
    variants: dict[str, Variant] = {"directly": Variant(model.predict, lambda items: map(model.predict, items))}
    with contextlib.ExitStack() as stack:
        for instances in INSTANCES:
            extra = {"trace": trace} if trace and instances == INSTANCES[-1] else {}
            runner = ParallelPredictUtils(
                f"{UNET}:make_unet", devices=device, instances=instances, engine_options={"sizes": sizes}, **extra
            )
            title = f"through {instances} instance{'s' if instances > 1 else ''}"
            variants[title] = Variant(stack.enter_context(runner).predict, runner.map, runner)
        expected = model.predict(inputs)["out_sample"]
        for title, variant in variants.items():
            check(title, variant.step(inputs)["out_sample"], expected)
        results = {title: [] for title in variants}
        for turn in range(-1, rounds):  # the first round is a warm-up
            for title, variant in variants.items():
                result = variant.measure(inputs, WARM_UP_STEPS if turn < 0 else steps)
                if turn >= 0:
                    results[title].append(result)
    return [Measured(title, *medians(result)) for title, result in results.items()]


class Variant:
    """One way to run steps."""

    def __init__(
        self, step: Callable[[Any], Any], stream: Callable[[Any], Any], runner: ParallelPredictUtils | None = None
    ) -> None:
        self.step = step
        self._stream = stream
        self._runner = runner

    def measure(self, inputs: Mapping[str, np.ndarray], steps: int) -> tuple[float, float, float | None]:
        """Return the ms per step, one by one and in a stream, and the part of the former in the engine."""
        busy_s = self._busy_s()
        started_s = time.perf_counter()
        for _ in range(steps):
            self.step(inputs)
        step_ms = (time.perf_counter() - started_s) / steps * 1e3
        engine_ms = None if busy_s is None else (self._busy_s() - busy_s) / steps * 1e3
        started_s = time.perf_counter()
        for _ in self._stream([inputs] * steps):
            pass
        return step_ms, (time.perf_counter() - started_s) / steps * 1e3, engine_ms

    def _busy_s(self) -> float | None:
        """Return the seconds that workers spent in the engine so far: the mean, because they run concurrently."""
        if self._runner is None:
            return None
        return statistics.mean(worker["busy_s"] for worker in self._runner.stats()["workers"].values())


def check(title: str, actual: np.ndarray, expected: np.ndarray) -> None:
    """Check that results differ only by rounding; raises RuntimeError."""
    if actual.shape != expected.shape:
        raise RuntimeError(f"{title} the result has the shape {actual.shape}; the direct one has {expected.shape}")
    difference = float(np.abs(actual - expected).max() / np.abs(expected).max())
    if not difference <= LARGEST_DIFFERENCE:
        raise RuntimeError(f"{title} the result differs from the direct one's by {difference:.2%} of its largest value")


def medians(rounds: Sequence[tuple[float, float, float | None]]) -> list[float | None]:
    """Return the median of each column; None if it contains None."""
    return [None if None in column else statistics.median(column) for column in zip(*rounds, strict=True)]


def tabulate(measured: Sequence[Measured], title: str) -> Table:
    """Return the table; the overhead is that of a step whose result is awaited."""
    table = Table(title=title)
    direct = measured[0]
    for column in ("step", "ms", "overhead", "outside the engine", "in a stream, steps/s"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for variant in measured:
        over_us = (variant.step_ms - direct.step_ms) * 1e3
        host = ""
        if variant.engine_ms is not None:
            outside_ms = variant.step_ms - variant.engine_ms
            host = f"{outside_ms * 1e3:.0f} us, {outside_ms / variant.step_ms:.2%}"
        against = "" if variant is direct else f"{over_us:+.0f} us, {variant.step_ms / direct.step_ms - 1:+.2%}"
        table.add_row(variant.title, f"{variant.step_ms:.2f}", against, host, f"{1e3 / variant.stream_ms:.2f}")
    return table


if __name__ == "__main__":
    main()
