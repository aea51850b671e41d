"""The report of a run: throughput over time, work per device, slowest files."""

from __future__ import annotations

import base64
import html
import io
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ascend_parallel.checks import check_installed, check_writable
from ascend_parallel.files import write_whole

from .counts import RunCounts, show_rate, show_time
from .outcome import Outcome

__all__ = ["Report", "check_report"]

_SUFFIXES = (".html", ".png")
#: The maximum number of points of the throughput curve, and the number of slowest files.
_MAX_BINS = 120
_SLOWEST = 15
_LABEL_CHARS = 40
_INCHES_A_DEVICE = 0.55
_FAILURES_SHOWN = 500


def check_report(path: str | os.PathLike[str]) -> None:
    """Check, before anything is started, that a report can be drawn and written there; raises UsageError."""
    check_writable("--report", Path(path), _SUFFIXES)
    check_installed("--report", "matplotlib", "pip install 'ascend-parallel[plot]'")


class Report:
    """Collects what happens in a run, and draws it; all times are those of the run's counts."""

    def __init__(self, counts: RunCounts) -> None:
        self._counts = counts
        self._finished_s = array("d")
        self._seconds = array("d")
        self._devices: list[str] = []
        self._files: list[str] = []

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Note some files, which are the latest that were counted."""
        self._finished_s.extend([self._counts.duration_s] * len(outcomes))
        self._seconds.extend([outcome.seconds for outcome in outcomes])
        self._devices.extend([outcome.device for outcome in outcomes])
        self._files.extend([outcome.file for outcome in outcomes])

    def write(self, path: str | os.PathLike[str], title: str, failures: Mapping[str, str]) -> None:
        """Draw the report and write it, whole or not at all.

        Args:
            path: a file that ends in .html or .png.
            title: the pipeline.
            failures: name -> reason of all files that failed.

        Raises:
            DiskError: if it could not be written.
        """
        picture = self._draw(title)
        target = Path(path)
        data = picture if target.suffix == ".png" else _page(title, self._counts, failures, picture).encode()
        write_whole(target, lambda file: file.write(data))

    def _draw(self, title: str) -> bytes:
        import matplotlib.figure

        devices = sorted(set(self._devices))
        upper_inches = max(4.0, _INCHES_A_DEVICE * len(devices))
        figure: Any = matplotlib.figure.Figure(figsize=(10, upper_inches + 4.5), dpi=110, layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=(upper_inches, 4.5))
        colours = {device: f"C{number % 10}" for number, device in enumerate(devices)}
        self._draw_throughput(figure.add_subplot(grid[0, 0]))
        self._draw_devices(figure.add_subplot(grid[0, 1]), colours)
        self._draw_slowest(figure.add_subplot(grid[1, :]), colours)
        figure.suptitle(_shorten(title))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()

    def _draw_throughput(self, axes: Any) -> None:
        end_s = max(self._counts.duration_s, 1e-3)
        bins = int(min(_MAX_BINS, max(10, len(self._finished_s) // 10)))
        counts, edges = np.histogram(self._finished_s, bins=bins, range=(0, end_s))
        axes.stairs(counts / (end_s / bins), edges, fill=True, color="#4477aa")
        mean = self._counts.files_per_s
        axes.axhline(mean, linestyle="--", color="black", linewidth=1)
        axes.set(title=f"Throughput (mean {show_rate(mean)} files/s)", xlabel="seconds since the start")
        axes.set(ylabel="files per second", xlim=(0, end_s))
        axes.set_ylim(bottom=0)

    def _draw_devices(self, axes: Any, colours: Mapping[str, str]) -> None:
        names = list(colours)
        place_of = {name: place for place, name in enumerate(names)}
        places = np.array([place_of[device] for device in self._devices])
        files = np.bincount(places, minlength=len(names))
        busy_s = np.bincount(places, weights=self._seconds, minlength=len(names))
        labels = [
            f"{name}\n{count:,} files\n{show_time(seconds)} busy"
            for name, count, seconds in zip(names, files, busy_s, strict=True)
        ]
        axes.barh(range(len(names)), files, color=list(colours.values()))
        axes.set_yticks(range(len(names)), labels)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set(title="Work of each device", xlabel="files")

    def _draw_slowest(self, axes: Any, colours: Mapping[str, str]) -> None:
        order = np.argsort(np.asarray(self._seconds), kind="stable")[::-1][:_SLOWEST]
        names = [_shorten(self._files[i]) for i in order]
        axes.barh(
            range(len(order)), [self._seconds[i] for i in order], color=[colours[self._devices[i]] for i in order]
        )
        axes.set_yticks(range(len(order)), names)
        axes.invert_yaxis()
        axes.set(title="Slowest files, in the colours of their devices", xlabel="seconds in the pipeline")


def _shorten(name: str) -> str:
    name = name.encode(errors="replace").decode().replace("$", r"\$").replace("\n", " ")
    return name if len(name) <= _LABEL_CHARS else "..." + name[-_LABEL_CHARS + 3 :]


def _page(title: str, counts: RunCounts, failures: Mapping[str, str], picture: bytes) -> str:
    """Return the report as an HTML page that contains the picture."""
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td>{_text(reason)}</td></tr>"
        for name, reason in list(failures.items())[:_FAILURES_SHOWN]
    )
    more = len(failures) - _FAILURES_SHOWN
    table = (
        f"<h2>{len(failures):,} failed</h2><table><tr><th>File</th><th>Reason</th></tr>{rows}</table>" if rows else ""
    )
    if more > 0:
        table += f"<p>and {more:,} more: see manifest.jsonl</p>"
    facts = counts.describe_run()
    if counts.before:
        facts += f"; {counts.before:,} were done before"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }}
img {{ max-width: 100%; }} table {{ border-collapse: collapse; }}
td, th {{ text-align: left; padding: 2px 12px 2px 0; border-bottom: 1px solid #ddd; vertical-align: top; }}
</style></head><body>
<h1>{_text(title)}</h1>
<p>{facts}; {_text(counts.describe_devices())}</p>
<img alt="throughput over time, work of each device, slowest files"
 src="data:image/png;base64,{base64.b64encode(picture).decode()}">
{table}
</body></html>
"""


def _text(text: str) -> str:
    return html.escape(text.encode(errors="replace").decode())
