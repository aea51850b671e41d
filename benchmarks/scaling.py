"""Scaling: how many devices one master drives, with simulated devices that only sleep, and calls of Stable Diffusion's.

A call is what its UNet gets in a step of guidance: sample [2,4,64,64], timestep [1], encoder_hidden_states [2,77,1024],
float32, about 760 KiB; each of its two rows is a task for one device. As many calls are in flight as
``ParallelPredictUtils.map`` keeps. Efficiency is the share of the devices' time in which they compute: at 100 %, the
host costs nothing. The master and the workers of all simulated devices share this machine's cores, so both are shown:
what the master spends on a call, and a worker on a task. Where one or both together take all there is, the curves fall.
A curve ends where less than half is left.

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

from ascend_parallel import ParallelPredictUtils
from ascend_parallel.runner.phases import find_phases
from ascend_parallel.runner.trace import Trace

#: A UNet step of Stable Diffusion 2.1 takes about 40 ms on one chip of an Atlas 300I Duo.
UNET_STEP_MS = 40.0
DEVICES = "1,2,4,8,16,32,64,128,256"
MS_PER_ROW = f"1,5,20,{UNET_STEP_MS:g}"
ROWS = 2
#: Below this efficiency a curve ends.
HALF = 0.5
#: An efficiency that is called good.
GOOD = 0.95


class Point(NamedTuple):
    """What was measured with so many devices of one speed; times in microseconds of CPU."""

    devices: int
    ms_per_row: float
    efficiency: float
    master_us_per_call: float
    worker_us_per_task: float
    busy_cores: float

    @property
    def master_limit(self) -> float:
        """Return the devices that would keep the master's one thread at a time busy without a pause."""
        return self.ms_per_row * 1e3 / (self.master_us_per_call / ROWS)

    @property
    def machine_limit(self) -> float:
        """Return the devices at which master and workers together would fill all cores."""
        cores = os.cpu_count() or 1
        return cores * self.ms_per_row * 1e3 / (self.master_us_per_call / ROWS + self.worker_us_per_task)


def unet_inputs() -> dict[str, np.ndarray]:
    """Return the inputs of one call."""
    rng = np.random.default_rng(0)
    shapes = {"sample": (ROWS, 4, 64, 64), "timestep": (1,), "encoder_hidden_states": (ROWS, 77, 1024)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def make_runner(devices: int, ms_per_row: float) -> ParallelPredictUtils:
    """Return a runner, not yet built, of simulated devices that get tasks of one row."""
    return ParallelPredictUtils(
        "simulated",
        devices=f"simulated:0-{devices - 1}",
        engine="simulated",
        engine_options={"ms_per_row": ms_per_row},
        batch_axes={"timestep": None},
        chunk_size=1,
    )


def rows_done(runner: ParallelPredictUtils) -> int:
    """Return the rows that all workers have answered; results come in order, and so in bursts."""
    return sum(worker["rows"] for worker in runner.stats()["workers"].values())


def workers_cpu_ns(runner: ParallelPredictUtils) -> int:
    """Return the CPU time of all workers' main threads, which do all there is to do."""
    pids = [worker["pid"] for worker in runner.stats()["workers"].values()]
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids)


def measure(devices: int, ms_per_row: float, seconds: float) -> Point:
    """Return what so many devices do while they are kept busy for so long."""
    inputs = unet_inputs()
    with make_runner(devices, ms_per_row) as runner:
        results = runner.map(itertools.repeat(inputs))
        for _ in range(4 * devices + 8):  # all memory was touched, all workers have run
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
    """Return the points of one speed, up to the first that is no good any more."""
    points: list[Point] = []
    for count in devices:
        if not points or points[-1].efficiency >= HALF:
            points.append(measure(count, ms_per_row, seconds))
    return points


def measure_step(steps: int) -> tuple[float, float, float]:
    """Return by how many ms a step of guidance on two devices is longer than its compute: quartiles of all steps.

    A step is what examples/sd21 does: the text lies in shared memory, the latents are written there each time. Its
    compute is what the worker of the row that was answered last tells, so that a sleep that lasts too long, as they do
    by 0.1 ms, counts as the device's.
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
    lost_ms = [step_ms - phase.compute / 1e6 for step_ms, phase in zip(steps_ms, phases, strict=True)]
    low, middle, high = statistics.quantiles(lost_ms[5:], n=4)
    return low, middle, high


def make_table(curves: list[list[Point]]) -> Table:
    """Return all points as a table."""
    table = Table(
        title=f"simulated devices, calls of SD 2.1's UNet, all on {os.cpu_count()} cores (Python "
        f"{platform.python_version()}, numpy {np.__version__})"
    )
    titles = ("ms a row", "devices", "efficiency", "calls/s", "master, us/call", "worker, us/task", "busy cores")
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


def tell_limits(curve: list[Point]) -> str:
    """Return in words what limits one curve, by its point with the most devices that still is good."""
    good = [point for point in curve if point.efficiency >= GOOD]
    point = (good or curve)[-1]
    best = f"{GOOD:.0%} up to {good[-1].devices} devices" if good else f"{GOOD:.0%} nowhere"
    return (
        f"{point.ms_per_row:g} ms a row: {best}; at {point.devices} devices' cost the master alone would be the limit "
        f"at {point.master_limit:.0f} devices, and these {os.cpu_count()} cores, shared with the workers, at "
        f"{point.machine_limit:.0f}"
    )


def draw(curves: list[list[Point]], path: str) -> None:
    """Draw efficiency, and the time that master and workers need, over the number of devices."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for index, curve in enumerate(curves):
        devices = [point.devices for point in curve]
        label = f"{curve[0].ms_per_row:g} ms a row"
        left.plot(devices, [100 * point.efficiency for point in curve], "o-", color=f"C{index}", label=label)
        right.plot(devices, [p.master_us_per_call / ROWS for p in curve], "o-", color=f"C{index}", label=label)
        right.plot(devices, [p.worker_us_per_task for p in curve], "s--", color=f"C{index}", mfc="none")
    left.axhline(100, color="grey", linewidth=0.8)
    left.set(ylabel="efficiency, %", ylim=(0, 105), title="share of the devices' time in which they compute")
    right.set(ylabel="µs of CPU a task", title="master (full) and worker (dashed)")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({point.devices for point in itertools.chain(*curves)}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(f"simulated devices, all driven from {os.cpu_count()} cores")
        axes.grid(alpha=0.3)
    left.legend(loc="lower left")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table and draw the curves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", default=DEVICES, help=f"numbers of devices (default {DEVICES})")
    parser.add_argument("--ms", default=MS_PER_ROW, help=f"compute times of a row (default {MS_PER_ROW})")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each point is measured (default 2)")
    parser.add_argument("--steps", type=int, default=100, help="steps of guidance on two devices (default 100)")
    parser.add_argument("--plot", metavar="PNG", help="draw the curves into this file")
    arguments = parser.parse_args()
    devices = [int(word) for word in arguments.devices.split(",")]
    curves = [measure_curve(float(word), devices, arguments.seconds) for word in arguments.ms.split(",")]
    console = Console(width=110)
    console.print(make_table(curves))
    for curve in curves:
        console.print(tell_limits(curve))
    low, middle, high = measure_step(arguments.steps)
    console.print(
        f"a step of guidance on two devices of {UNET_STEP_MS:g} ms loses {middle:.2f} ms to the host "
        f"({middle / UNET_STEP_MS:.2%}; quartiles {low:.2f} and {high:.2f} ms; goal under 0.5 %)"
    )
    if arguments.plot:
        draw(curves, arguments.plot)


if __name__ == "__main__":
    main()
