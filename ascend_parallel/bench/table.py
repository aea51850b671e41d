"""The figures as text tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console

from . import figures
from .layout import fit
from .report import Report, Row

PIPE_WIDTH_COLUMNS = 200  # a pipe has no width, and a row in one line can be grepped
_SETTING = ("devices", "batch", "instances", "in\nflight")
_UNKNOWN = "-"
#: The meaning of columns whose title is not sufficient; the command's help says more.
_LEGEND = {
    "batch": "rows of a call, over all devices",
    "±": "half the difference between the longest of five rounds and the shortest",
    "efficiency": "against so many times one device",
    "host": "what a call takes beyond the devices' own time",
}


def show(report: Report, inputs: str, file: TextIO = sys.stdout) -> None:
    """Print the figures of all rows, with a legend and warnings."""
    rows = in_order(report.rows)
    console = _console(file)
    console.print(f"{report.model} with {report.engine}; a call: {inputs}", soft_wrap=True)
    titles = [*_SETTING, "rows/s", "±", "calls/s", *_latency_titles(rows), "efficiency", "host\nµs"]
    titles += ["rows/s\na device", "rows/s\na host"]
    cells = [_cells(row) for row in rows]
    known = [i for i in range(len(titles)) if any(line[i] != _UNKNOWN for line in cells)]
    _print_tables(console, [titles[i] for i in known], [[line[i] for i in known] for line in cells])
    words = [titles[i].split("\n")[0] for i in known]
    legend = [f"{word}: {_LEGEND[word]}" for word in words if word in _LEGEND]
    for line in ["; ".join(legend) + " (--help says more)", *_notes(rows)]:
        console.print(line, soft_wrap=not console.is_terminal)


def show_breakdown(report: Report, file: TextIO = sys.stdout) -> None:
    """Print the breakdown of the rows that have one."""
    rows = [row for row in in_order(report.rows) if row.breakdown is not None]
    if not rows:
        return
    console = _console(file)
    phases = [phase for row in rows[:1] if row.breakdown for phase in row.breakdown.call]
    lines = []
    for row in rows:
        if row.breakdown is not None:
            idle = [shares["idle"] for shares in row.breakdown.devices.values()]
            mean = f"{sum(idle) / len(idle):.1%}" if idle else _UNKNOWN
            lines.append([*map(str, row.setting), *(f"{share:.1%}" for share in row.breakdown.call.values()), mean])
    console.print("", "Where a call's time goes (adds up to 100 %), and how long devices idle:", sep="\n")
    _print_tables(console, [*_SETTING, *phases, "device\nidle"], lines)


def show_best(rows: Sequence[Row], file: TextIO = sys.stdout) -> None:
    """Print settings as command line options, best first."""
    console = _console(file)
    console.print("", "Best settings:", sep="\n")
    for row in rows:
        median = "".join(f", p{p:g} {ms:.4g} ms" for p, ms in list(row.latency_ms.items())[:1])
        told = f"{row.rows_per_s:.4g} rows/s ± {row.spread:.0%}{median}"
        console.print(f"  {row.setting.as_options()}    {told}", soft_wrap=True)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return the rows sorted by setting, with the numbers of devices of a setting below each other."""
    return sorted(
        rows,
        key=lambda row: (row.setting.batch_size, row.setting.instances, row.setting.in_flight, row.setting.devices),
    )


def _console(file: TextIO) -> Console:
    console = Console(file=file, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH_COLUMNS
    return console


def _print_tables(console: Console, titles: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    same, tables = fit(console.width, titles, lines, len(_SETTING))
    if same:
        console.print(f"in all rows: {same}")
    for number, table in enumerate(tables):
        console.print(*([""] if number else []), table, sep="\n")


def _latency_titles(rows: Sequence[Row]) -> list[str]:
    return [f"p{percentile:g}\nms" for row in rows[:1] for percentile in row.latency_ms]


def _cells(row: Row) -> list[str]:
    return [
        *map(str, row.setting),
        _number(row.rows_per_s),
        f"{row.spread:.1%}",
        _number(row.calls_per_s),
        *map(_number, row.latency_ms.values()),
        _UNKNOWN if row.efficiency is None else f"{row.efficiency:.1%}",
        _UNKNOWN if row.host_overhead_us is None else f"{row.host_overhead_us:.0f}",
        _range(list(row.rows_per_s_of.values())),
        _range(list(row.rows_per_s_of_hosts().values())) if row.rows_per_s_of_hosts() else _UNKNOWN,
    ]


def _number(value: float) -> str:
    """Return a number with four significant digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _range(values: Sequence[float]) -> str:
    least, most = _number(min(values)), _number(max(values))
    return least if least == most else f"{least}-{most}"


def _notes(rows: Sequence[Row]) -> list[str]:
    """Return warnings about figures that are less reliable than they look."""
    notes = []
    for row in rows:
        told = row.setting.in_words()
        if row.restarts:
            notes.append(f"Warning: {told}: workers died and were replaced ({row.restarts}); measure again")
        if row.is_partial:
            notes.append(f"Warning: {told}: interrupted after {row.calls} calls")
    few = {p for row in rows for p in row.latency_ms if row.calls < figures.calls_needed(p)}
    for percentile in sorted(few):
        needed = figures.calls_needed(percentile)
        notes.append(
            f"p{percentile:g} of fewer than {needed} calls is hardly more than the slowest one: measure longer"
        )
    return notes
