"""Scaling: how many devices one master drives, with simulated devices that only sleep, and Stable Diffusion's inputs.

A call has the inputs of the UNet in a step of guidance: sample [2,4,64,64], timestep [1], encoder_hidden_states
[2,77,1024], float32, about 760 KiB. Each of its two rows is one task. ``ParallelPredictUtils.map`` keeps the calls in
flight. Efficiency is the share of the devices' time in which they compute: 100 % means no host overhead. The master and
the workers of all simulated devices share this machine's cores, so both are shown: the master's CPU time per call, and
a worker's per task. The curves fall when one or both of them use all cores. A curve ends when the efficiency is below
one half.

    python benchmarks/scaling.py [--devices 1,2,4] [--ms 5,20] [--seconds 2] [--plot scaling.png]
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table
from sides.options import read_numbers

from ascend_parallel import ParallelPredictUtils
from ascend_parallel.runner.phases import find_phases
from ascend_parallel.runner.trace import Trace

#: A UNet step of Stable Diffusion 2.1 takes about 40 ms on one chip of an Atlas 300I Duo.
UNET_STEP_MS = 40.0
DEVICES = "1,2,4,8,16,32,64,128,256"
MS_PER_ROW = f"1,5,20,{UNET_STEP_MS:g}"
ROWS = 2
#: A curve ends below this efficiency.
MIN_EFFICIENCY = 0.5
#: The efficiency up to which scaling counts as good.
GOOD = 0.95


class Point(NamedTuple):
    """The figures of one number of devices and one compute time; CPU times are in microseconds."""

    devices: int
    ms_per_row: float
    efficiency: float
    master_us_per_call: float
    worker_us_per_task: float
    busy_cores: float

    @property
    def master_limit(self) -> float:
        """Return the number of devices that would keep the master's single active thread busy all the time."""
        return self.ms_per_row * 1e3 / (self.master_us_per_call / ROWS)

    @property
    def machine_limit(self) -> float:
        """Return the number of devices at which master and workers together would use all cores."""
        cores = os.cpu_count() or 1
        return cores * self.ms_per_row * 1e3 / (self.master_us_per_call / ROWS + self.worker_us_per_task)


def unet_inputs() -> dict[str, np.ndarray]:
    """Return the inputs of one call."""
    rng = np.random.default_rng(0)
    shapes = {"sample": (ROWS, 4, 64, 64), "timestep": (1,), "encoder_hidden_states": (ROWS, 77, 1024)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def make_runner(devices: int, ms_per_row: float) -> ParallelPredictUtils:
    """Return a runner, not yet built, with simulated devices and tasks of one row."""
    return ParallelPredictUtils(
        "simulated",
        devices=f"simulated:0-{devices - 1}",
        engine="simulated",
        engine_options={"ms_per_row": ms_per_row},
        batch_axes={"timestep": None},
        chunk_size=1,
    )


def rows_done(runner: ParallelPredictUtils) -> int:
    """Return the rows that all workers have finished; the results themselves arrive in order, and so in bursts."""
    return sum(worker["rows"] for worker in runner.stats()["workers"].values())


def workers_cpu_ns(runner: ParallelPredictUtils) -> int:
    """Return the CPU time of all workers' main threads, which do all the work."""
    pids = [worker["pid"] for worker in runner.stats()["workers"].values()]
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids)


def measure(devices: int, ms_per_row: float, seconds: float) -> Point:
    """Return the figures of ``devices`` devices that are kept busy for ``seconds``."""
    inputs = unet_inputs()
    with make_runner(devices, ms_per_row) as runner:
        results = runner.map(itertools.repeat(inputs))
        for _ in range(4 * devices + 8):  # now all memory was touched, and all workers have run
            next(results)
        rows, started_s = rows_done(runner), time.perf_counter()
        master_ns, workers_ns = time.process_time_ns(), workers_cpu_ns(runner)
        while time.perf_counter() < started_s + seconds:
            next(results)
        rows, elapsed_s = rows_done(runner) - rows, time.perf_counter() - started_s
        master_ns, workers_ns = time.process_time_ns() - master_ns, workers_cpu_ns(runner) - workers_ns
    return Point(
        devices,
        ms_per_row,
        efficiency=rows * ms_per_row / 1e3 / (devices * elapsed_s),
        master_us_per_call=master_ns / rows * ROWS / 1e3,
        worker_us_per_task=workers_ns / rows / 1e3,
        busy_cores=(master_ns + workers_ns) / 1e9 / elapsed_s,
    )


def measure_curve(ms_per_row: float, devices: list[int], seconds: float) -> list[Point]:
    """Return the points of one compute time, up to the first one with a low efficiency."""
    points: list[Point] = []
    for count in devices:
        if not points or points[-1].efficiency >= MIN_EFFICIENCY:
            points.append(measure(count, ms_per_row, seconds))
    return points


def measure_step(steps: int) -> tuple[float, float, float]:
    """Return the host overhead of a step of guidance on two devices in ms: the quartiles of all steps.

    A step is that of examples/sd21: the text is in shared memory, and the latents are written there in each step. The
    overhead is the step's time minus the compute time that the worker of the last row reports. A sleep that ends late,
    usually by 0.1 ms, counts as compute time.
    """
    steps_ms = []
    latents = unet_inputs()["sample"]
    with make_runner(2, UNET_STEP_MS) as runner:
        inputs = {name: runner.empty(array.shape, array.dtype) for name, array in unet_inputs().items()}
        for name, array in unet_inputs().items():
            inputs[name][...] = array
        runner.trace = Trace()
        for _ in range(5 + steps):
            started_s = time.perf_counter()
            inputs["sample"][...] = latents
            runner.predict(inputs)
            steps_ms.append((time.perf_counter() - started_s) * 1e3)
        phases = find_phases(runner.trace.calls()).values()
    overhead_ms = [step_ms - phase.compute / 1e6 for step_ms, phase in zip(steps_ms, phases, strict=True)]
    low, middle, high = statistics.quantiles(overhead_ms[5:], n=4)
    return low, middle, high


def make_table(curves: list[list[Point]]) -> Table:
    """Return all points as a table."""
    table = Table(
        title=f"simulated devices, calls of SD 2.1's UNet, all on {os.cpu_count()} cores (Python "
        f"{platform.python_version()}, numpy {np.__version__})"
    )
    titles = ("ms per row", "devices", "efficiency", "calls/s", "master, us/call", "worker, us/task", "busy cores")
    for title in titles:
        table.add_column(title, justify="right")
    for point in itertools.chain(*curves):
        calls = point.efficiency * point.devices / (ROWS * point.ms_per_row / 1e3)
        table.add_row(
            f"{point.ms_per_row:g}",
            str(point.devices),
            f"{point.efficiency:.1%}",
            f"{calls:.0f}",
            f"{point.master_us_per_call:.0f}",
            f"{point.worker_us_per_task:.0f}",
            f"{point.busy_cores:.2f}",
        )
    return table


def describe_limit(curve: list[Point]) -> str:
    """Return a description of what limits a curve, by its largest number of devices with a good efficiency."""
    good = [point for point in curve if point.efficiency >= GOOD]
    point = (good or curve)[-1]
    best = f"{GOOD:.0%} up to {good[-1].devices} devices" if good else f"below {GOOD:.0%} everywhere"
    return (
        f"{point.ms_per_row:g} ms per row: {best}; with the costs at {point.devices} devices, the limit would be "
        f"{point.master_limit:.0f} devices for the master alone, and {point.machine_limit:.0f} devices for these "
        f"{os.cpu_count()} cores, which the workers share"
    )


def draw(curves: list[list[Point]], path: str) -> None:
    """Draw the efficiency, and the CPU time of master and workers, by the number of devices."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for index, curve in enumerate(curves):
        devices = [point.devices for point in curve]
        label = f"{curve[0].ms_per_row:g} ms per row"
        left.plot(devices, [100 * point.efficiency for point in curve], "o-", color=f"C{index}", label=label)
        right.plot(devices, [p.master_us_per_call / ROWS for p in curve], "o-", color=f"C{index}", label=label)
        right.plot(devices, [p.worker_us_per_task for p in curve], "s--", color=f"C{index}", mfc="none")
    left.axhline(100, color="grey", linewidth=0.8)
    left.set(ylabel="efficiency, %", ylim=(0, 105), title="share of the devices' time in which they compute")
    right.set(ylabel="µs of CPU per task", title="master (solid) and worker (dashed)")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({point.devices for point in itertools.chain(*curves)}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(f"simulated devices, all driven by {os.cpu_count()} cores")
        axes.grid(alpha=0.3)
    left.legend(loc="lower left")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table and draw the curves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", default=DEVICES, help=f"numbers of devices (default: {DEVICES})")
    parser.add_argument("--ms", default=MS_PER_ROW, help=f"compute times per row (default: {MS_PER_ROW})")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each measurement (default: 2)")
    parser.add_argument("--steps", type=int, default=100, help="steps of guidance on two devices (default: 100)")
    parser.add_argument("--plot", metavar="PNG", help="draw the curves to this file")
    arguments = parser.parse_args()
    devices = read_numbers(parser, "--devices", arguments.devices)
    curves = [measure_curve(float(word), devices, arguments.seconds) for word in arguments.ms.split(",")]
    console = Console(width=110)
    console.print(make_table(curves))
    for curve in curves:
        console.print(describe_limit(curve))
    low, middle, high = measure_step(arguments.steps)
    console.print(
        f"the host overhead of a step of guidance on two devices of {UNET_STEP_MS:g} ms is {middle:.2f} ms "
        f"({middle / UNET_STEP_MS:.2%}; quartiles {low:.2f} and {high:.2f} ms; goal under 0.5 %)"
    )
    if arguments.plot:
        draw(curves, arguments.plot)


if __name__ == "__main__":
    main()
