"""Scheduling: the throughput relative to the devices' own, with simulated devices that only sleep.

    python benchmarks/scheduling.py

"Ideal" is the throughput of the devices if a task cost nothing but its compute time.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ascend_parallel import ParallelPredictUtils

MS_PER_ROW = 10.0


def throughput(devices: int, rows: int, options: dict[str, Any]) -> float:
    """Return the rows per second of calls with tasks of one row."""
    with ParallelPredictUtils(
        "simulated", devices=f"simulated:0-{devices - 1}", engine="simulated", engine_options=options, chunk_size=1
    ) as runner:
        x = np.zeros((rows, 256), np.float32)
        runner.predict({"x": x[: 4 * devices]})  # the first call learns shapes and speeds
        started_s = time.perf_counter()
        runner.predict({"x": x})
        return rows / (time.perf_counter() - started_s)


def build_s(devices: int, build_ms: float) -> float:
    """Return the seconds to build ``devices`` workers, each of which takes ``build_ms``."""
    started_s = time.perf_counter()
    with ParallelPredictUtils(
        "simulated", devices=f"simulated:0-{devices - 1}", engine="simulated", engine_options={"build_ms": build_ms}
    ):
        return time.perf_counter() - started_s


def main() -> None:
    """Print the table."""
    table = Table(title=f"simulated devices of {MS_PER_ROW:g} ms per row on {os.cpu_count()} cores")
    for title in ("case", "ideal", "measured", "relative to ideal", "goal"):
        table.add_column(title, justify="right")
    per_device = 1000 / MS_PER_ROW
    cases = (
        ("64 devices, rows/s", 64, 19200, {}, 64 * per_device),
        ("4 devices, one twice as slow, rows/s", 4, 1400, {"slowdown": {0: 2.0}}, 3.5 * per_device),
    )
    for name, devices, rows, extra, ideal in cases:
        got = throughput(devices, rows, {"ms_per_row": MS_PER_ROW, **extra})
        table.add_row(name, f"{ideal:.0f}", f"{got:.0f}", f"{got / ideal:.1%}", "95 %")
    one_s, four_s = build_s(1, 3000), build_s(4, 3000)
    table.add_row(
        "build 4 devices of 3 s each, s",
        f"{one_s:.2f} (one device)",
        f"{four_s:.2f}",
        f"{one_s / four_s:.1%}",
        "not the sum",
    )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
