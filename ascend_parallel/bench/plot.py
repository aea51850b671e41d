"""The figures as a picture; needs matplotlib (the extra ``plot``)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ascend_parallel.checks import check_installed, check_writable
from ascend_parallel.files import write_whole

from .report import Report, Row, Setting

SUFFIXES = [".png", ".svg", ".pdf"]
_SIZE_INCHES = (15.0, 4.8)
_DPI = 120
#: Colours that people with colour blindness can distinguish. Source: Okabe and Ito, "Color Universal Design", 2008.
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
_GREY = "#777777"
#: More lines than this cannot be distinguished; those with the highest throughput are drawn.
_MAX_LINES = len(_COLOURS)

#: Tick labels closer to the next one than the largest number divided by this would overlap.
_TICKS = 25
#: Field of a setting -> its text in a legend.
_WORDS = {
    "devices": "devices: {}",
    "batch_size": "batch {}",
    "instances": "instances: {}",
    "in_flight": "{} in flight",
}
_AXES = {"devices": "devices", "batch_size": "batch size (rows per call)", "in_flight": "calls in flight"}

Lines = dict[str, list[Row]]


def check_plot(path: Path) -> None:
    """Check, before anything is started, that a picture can be drawn and written.

    Raises:
        UsageError: if matplotlib is missing, or the file cannot be written.
    """
    check_writable("--plot", path, SUFFIXES)
    check_installed("--plot", "matplotlib", "pip install 'ascend-parallel[plot]'")


def write_plot(path: Path, report: Report) -> None:
    """Write a picture: throughput and efficiency by number of devices, and latency by load.

    Raises:
        DiskError: if the file could not be written.
    """
    from matplotlib.figure import Figure  # not pyplot, which would select a window system and keep every figure

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    figure.suptitle(f"{Path(report.model).name} with {report.engine} on {_devices(report.devices)}")
    throughput_axes, efficiency_axes, latency_axes = figure.subplots(1, 3)
    _draw_throughput(throughput_axes, report.rows)
    _draw_efficiency(efficiency_axes, report.rows)
    _draw_latency(latency_axes, report.rows)
    write_whole(path, lambda file: figure.savefig(file, format=path.suffix[1:]))


def _devices(devices: Sequence[str]) -> str:
    return ", ".join(devices) if len(devices) <= 4 else f"{devices[0]} to {devices[-1]} ({len(devices)} devices)"


def _lines(rows: Sequence[Row], field: str) -> Lines:
    """Return rows as lines along one field of their setting, named by the other fields that vary.

    If there are too many lines, those with the highest throughput are returned.
    """
    varying = [name for name in Setting._fields if name != field and len({getattr(r.setting, name) for r in rows}) > 1]
    lines: Lines = {}
    for row in sorted(rows, key=lambda row: row.setting):
        label = ", ".join(_WORDS[name].format(getattr(row.setting, name)) for name in varying)
        lines.setdefault(label or "measured", []).append(row)
    best = sorted(lines, key=lambda label: -max(row.rows_per_s for row in lines[label]))[:_MAX_LINES]
    return {label: sorted(lines[label], key=lambda r: getattr(r.setting, field)) for label in lines if label in best}


def _draw_throughput(axes: Any, rows: Sequence[Row]) -> None:
    top = max(row.rows_per_s for row in rows)
    for colour, (label, line) in zip(_COLOURS, _lines(rows, "devices").items(), strict=False):
        counts = [row.setting.devices for row in line]
        errors = [row.rows_per_s * row.spread for row in line]
        heights = [row.rows_per_s for row in line]
        axes.errorbar(counts, heights, errors, color=colour, marker="o", capsize=3, label=label)
        if counts[0] == 1:
            ideal = [heights[0] * count for count in counts]
            axes.plot(counts, ideal, color=colour, linestyle="--", linewidth=1)
            top = max(top, *ideal)
    axes.plot([], [], color=_GREY, linestyle="--", linewidth=1, label="ideal: N times one device")
    _finish(axes, "Throughput", "rows/s", rows, "devices", top)
    axes.legend(fontsize="small", loc="upper left")


def _draw_efficiency(axes: Any, rows: Sequence[Row]) -> None:
    for colour, line in zip(_COLOURS, _lines(rows, "devices").values(), strict=False):
        known = [row for row in line if row.efficiency is not None]
        percent = [100 * (row.efficiency or 0) for row in known]
        axes.plot([row.setting.devices for row in known], percent, color=colour, marker="o")
    axes.axhline(100, color=_GREY, linestyle="--", linewidth=1)
    top = max([100.0, *(100 * row.efficiency for row in rows if row.efficiency is not None)])
    _finish(axes, "Efficiency relative to one device", "%", rows, "devices", top)


def _draw_latency(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the lowest and the highest percentile by the load: calls in flight, rows per call, or devices."""
    varying = [name for name in ("in_flight", "batch_size") if len({getattr(r.setting, name) for r in rows}) > 1]
    field = varying[0] if varying else "devices"
    lowest, highest = min(rows[0].latency_ms), max(rows[0].latency_ms)
    for colour, (label, line) in zip(_COLOURS, _lines(rows, field).items(), strict=False):
        loads = [getattr(row.setting, field) for row in line]
        axes.plot(loads, [row.latency_ms[lowest] for row in line], color=colour, marker="o", label=label)
        axes.plot(loads, [row.latency_ms[highest] for row in line], color=colour, marker="v", linestyle=":")
    axes.plot([], [], color=_GREY, linestyle="-", label=f"solid: p{lowest:g}")
    axes.plot([], [], color=_GREY, linestyle=":", label=f"dotted: p{highest:g}")
    _finish(axes, "Latency of a call", "ms", rows, field, max(row.latency_ms[highest] for row in rows))
    axes.legend(fontsize="small")


def _finish(axes: Any, title: str, unit: str, rows: Sequence[Row], field: str, top: float) -> None:
    """Label the axes, and leave room for the legend above the lines."""
    axes.set_title(title)
    axes.set_xlabel(_AXES[field])
    axes.set_ylabel(unit)
    numbers = sorted({getattr(row.setting, field) for row in rows})
    axes.set_xticks(
        [n for n, above in itertools.pairwise([*numbers, 2 * numbers[-1]]) if above - n >= numbers[-1] / _TICKS]
    )
    axes.set_ylim(0, 1.25 * top)
    axes.grid(alpha=0.3)
