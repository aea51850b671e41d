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
#: Told apart by those who see colours otherwise, too. Source: Okabe and Ito, "Color Universal Design", 2008.
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
_GREY = "#777777"
#: More lines than this cannot be told apart; the best are shown.
_MAX_LINES = len(_COLOURS)

#: Numbers closer to the next than the greatest through this would run into each other along an axis.
_TICKS = 25
#: Field of a setting -> the words for it, in a legend and along an axis.
_WORDS = {
    "devices": "devices: {}",
    "batch_size": "batch {}",
    "instances": "instances: {}",
    "in_flight": "{} in flight",
}
_AXES = {"devices": "devices", "batch_size": "batch size (rows of a call)", "in_flight": "calls in flight"}

Lines = dict[str, list[Row]]


def check_plot(path: Path) -> None:
    """Check, before anything is started, that a picture can be made and written there.

    Raises:
        UsageError: matplotlib is missing, or the file cannot be written.
    """
    check_writable("--plot", path, SUFFIXES)
    check_installed("--plot", "matplotlib", "pip install 'ascend-parallel[plot]'")


def write_plot(path: Path, report: Report) -> None:
    """Write a picture: throughput and efficiency by number of devices, and latency by load.

    Raises:
        DiskError: the file could not be written.
    """
    from matplotlib.figure import Figure  # not pyplot, which would pick a window system and keep every figure

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    figure.suptitle(f"{Path(report.model).name} with {report.engine} on {_devices(report.devices)}")
    throughput, share, latency = figure.subplots(1, 3)
    _draw_throughput(throughput, report.rows)
    _draw_efficiency(share, report.rows)
    _draw_latency(latency, report.rows)
    write_whole(path, lambda file: figure.savefig(file, format=path.suffix[1:]))


def _devices(devices: Sequence[str]) -> str:
    return ", ".join(devices) if len(devices) <= 4 else f"{devices[0]} to {devices[-1]} ({len(devices)} devices)"


def _lines(rows: Sequence[Row], along: str) -> Lines:
    """Return rows as lines along one field of their setting, named by the other fields, where these vary.

    Of too many lines, those of highest throughput.
    """
    varying = [name for name in Setting._fields if name != along and len({getattr(r.setting, name) for r in rows}) > 1]
    lines: Lines = {}
    for row in sorted(rows, key=lambda row: row.setting):
        label = ", ".join(_WORDS[name].format(getattr(row.setting, name)) for name in varying)
        lines.setdefault(label or "measured", []).append(row)
    best = sorted(lines, key=lambda label: -max(row.rows_per_s for row in lines[label]))[:_MAX_LINES]
    return {label: sorted(lines[label], key=lambda r: getattr(r.setting, along)) for label in lines if label in best}


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
    axes.plot([], [], color=_GREY, linestyle="--", linewidth=1, label="ideal: so many times one device")
    _finish(axes, "Throughput", "rows/s", rows, "devices", top)
    axes.legend(fontsize="small", loc="upper left")


def _draw_efficiency(axes: Any, rows: Sequence[Row]) -> None:
    for colour, line in zip(_COLOURS, _lines(rows, "devices").values(), strict=False):
        known = [row for row in line if row.efficiency is not None]
        percent = [100 * (row.efficiency or 0) for row in known]
        axes.plot([row.setting.devices for row in known], percent, color=colour, marker="o")
    axes.axhline(100, color=_GREY, linestyle="--", linewidth=1)
    top = max([100.0, *(100 * row.efficiency for row in rows if row.efficiency is not None)])
    _finish(axes, "Efficiency against one device", "%", rows, "devices", top)


def _draw_latency(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the least and the greatest percentile, by what makes the load: calls in flight, rows, or devices."""
    varying = [name for name in ("in_flight", "batch_size") if len({getattr(r.setting, name) for r in rows}) > 1]
    along = varying[0] if varying else "devices"
    least, most = min(rows[0].latency_ms), max(rows[0].latency_ms)
    for colour, (label, line) in zip(_COLOURS, _lines(rows, along).items(), strict=False):
        loads = [getattr(row.setting, along) for row in line]
        axes.plot(loads, [row.latency_ms[least] for row in line], color=colour, marker="o", label=label)
        axes.plot(loads, [row.latency_ms[most] for row in line], color=colour, marker="v", linestyle=":")
    axes.plot([], [], color=_GREY, linestyle="-", label=f"solid: p{least:g}")
    axes.plot([], [], color=_GREY, linestyle=":", label=f"dotted: p{most:g}")
    _finish(axes, "Latency of a call", "ms", rows, along, max(row.latency_ms[most] for row in rows))
    axes.legend(fontsize="small")


def _finish(axes: Any, title: str, unit: str, rows: Sequence[Row], along: str, top: float) -> None:
    """Name the axes, and leave room above what was drawn for the legend."""
    axes.set_title(title)
    axes.set_xlabel(_AXES[along])
    axes.set_ylabel(unit)
    numbers = sorted({getattr(row.setting, along) for row in rows})
    axes.set_xticks(
        [n for n, above in itertools.pairwise([*numbers, 2 * numbers[-1]]) if above - n >= numbers[-1] / _TICKS]
    )
    axes.set_ylim(0, 1.25 * top)
    axes.grid(alpha=0.3)
