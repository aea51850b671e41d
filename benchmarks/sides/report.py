"""The output of peers.py: tables, a plot, and the section of the README with both."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from .models import MODELS
from .peers import PEERS, QUESTIONS, Rounds

BENCHMARKS = Path(__file__).resolve().parents[1]
README, PLOT = BENCHMARKS / "README.md", BENCHMARKS / "peers.png"
BEGIN, END = "<!-- peers.py --save writes from here", "<!-- to here -->"
TITLES = {
    "latency": "One call on two workers: times faster than the peer",
    "stream": "A stream of batches: throughput relative to the peer",
    "cpu": "CPU time of all processes for a batch of the stream: the peer's relative to ours",
}
AXES = {"latency": "one call", "stream": "a stream of batches", "cpu": "its CPU time"}
PACKAGES = ("onnxruntime", "numpy", "mpire", "loky", "joblib", "ray")

#: The rows of our own figures: title, workers, and whether the model is a MINDIR file.
OWN_ROWS = (
    ("ours, onnxruntime engine", "processes", False),
    ("ours, onnxruntime engine, threads", "threads", False),
    ("ours, mslite engine", "processes", True),
)
#: Model -> peer -> its rounds.
Results = dict[str, dict[str, Rounds]]
#: A title, the columns, and the rows, all as text.
Sheet = tuple[str, list[str], list[list[str]]]


def ratios(rounds: Rounds, question: str) -> list[float]:
    """Return our speed relative to the peer's, in each round."""
    return [theirs_ms / ours_ms for ours_ms, theirs_ms in rounds[question]]


def columns(results: Results) -> dict[str, dict[str, Rounds]]:
    """Return the results by ONNX model: a MINDIR model is merged into the ONNX model that it is converted from."""
    merged: dict[str, dict[str, Rounds]] = {}
    for name, peers in results.items():
        if peers:
            merged.setdefault(MODELS[name].mindir_of or name, {}).update(peers)
    return merged


def sheets(results: Results) -> Iterator[Sheet]:
    """Yield one table per metric: peers as rows, models as columns, and our own figures in the last rows."""
    merged = columns(results)
    for question in QUESTIONS:
        rows = [
            [peer.title, *(spread(ratios(peers[name], question)) if name in peers else "" for peers in merged.values())]
            for name, peer in PEERS.items()
            if any(name in peers for peers in merged.values())
        ]
        for title, which, is_mindir in OWN_ROWS:
            row = [own_figure(peers, question, which, is_mindir=is_mindir) for peers in merged.values()]
            rows += [[title, *row]] if any(row) else []
        yield TITLES[question], ["peer", *(MODELS[name].title for name in merged)], rows


def spread(values: list[float]) -> str:
    """Return the median and the range of ratios."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def own_figure(peers: dict[str, Rounds], question: str, which: str, *, is_mindir: bool) -> str:
    """Return our own figure with these workers and one of the engines, over the rounds with all peers."""
    wanted = (which, is_mindir)
    rounds = [rounds for name, rounds in peers.items() if (PEERS[name].ours, PEERS[name].takes_mindir) == wanted]
    if not rounds:
        return ""
    ours_ms = statistics.median(ours_ms for rounds_of_peer in rounds for ours_ms, _ in rounds_of_peer[question])
    return f"{1e3 / ours_ms:.4g} batches/s" if question == "stream" else f"{ours_ms:.3g} ms"


def tables(sheets: Iterable[Sheet]) -> Iterator[Table]:
    """Yield the tables for a terminal."""
    for title, columns, rows in sheets:
        table = Table(title=title)
        table.add_column(columns[0])
        for column in columns[1:]:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*row, style="bold" if row[0].startswith("ours") else None)
        yield table


def machine() -> str:
    """Return the CPU's model and the versions, in one line."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")), platform.machine())
    versions = ", ".join(f"{name} {version}" for name in PACKAGES if (version := find_version(name)))
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {cpu}, Python {platform.python_version()}, {versions}"


def find_version(package: str) -> str:
    """Return an installed package's version; "" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def save(results: Results, conditions: str) -> None:
    """Write the plot, and the section of the README between its marks; ``conditions`` describes the measurement."""
    draw(results, PLOT)
    write_section(README, BEGIN, [conditions, "", *markdown(sheets(results), "median and range of the rounds")])


def markdown(sheets: Iterable[Sheet], note: str) -> Iterator[str]:
    """Yield the lines of tables in Markdown, with a note after each title."""
    for title, columns, rows in sheets:
        yield from (f"**{title}** ({note})", "")
        for row in (columns, ["---"] * len(columns), *rows):
            yield f"| {' | '.join(row)} |"
        yield ""


def write_section(file: Path, begin: str, lines: list[str]) -> None:
    """Replace the lines of a file between the mark that starts with ``begin`` and the next end mark."""
    before, _, rest = file.read_text().partition(begin)
    mark, _, rest = rest.partition("\n")
    _, _, after = rest.partition(END)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(f"{before}{begin}{mark}\n" + "\n".join(lines) + f"{END}{after}")
    temporary.replace(file)


def draw(results: Results, path: Path) -> None:
    """Draw the ratios: one panel per model and metric, one bar per peer, and a line at equal speed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    merged = columns(results)
    names = [name for name in PEERS if any(name in peers for peers in merged.values())]
    figure, axes = pyplot.subplots(
        len(QUESTIONS),
        len(merged),
        figsize=(2.1 * len(merged) + 2.5, 0.75 * len(names) + 1.6),
        squeeze=False,
        sharex="col",
        sharey=True,
        layout="constrained",
    )
    for panels, question in zip(axes, QUESTIONS, strict=True):
        for panel, (name, peers) in zip(panels, merged.items(), strict=True):
            draw_panel(panel, [ratios(peers[peer], question) if peer in peers else [] for peer in names])
            panel.set_title(MODELS[name].title if question == QUESTIONS[0] else "", fontsize=9)
        panels[0].set_yticks(range(len(names)), [PEERS[peer].title for peer in names], fontsize=8)
        panels[0].set_ylabel(AXES[question])
    axes[0][0].invert_yaxis()
    figure.suptitle(
        "How many times faster ascend_parallel is; 1 is equal speed. Bars: medians; whiskers: range of the rounds"
    )
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
    temporary.replace(path)


def draw_panel(panel: Any, values: list[list[float]]) -> None:
    """Draw the bars of one model, from 1 to the median, with the median as text at the foot of the bar."""
    for index, ratios_of_peer in enumerate(values):
        if not ratios_of_peer:
            continue
        middle = statistics.median(ratios_of_peer)
        is_ahead = middle >= 1
        panel.barh(index, middle - 1, left=1, height=0.7, color="tab:green" if is_ahead else "tab:red")
        panel.plot([min(ratios_of_peer), max(ratios_of_peer)], [index, index], color="0.25", linewidth=1)
        panel.annotate(
            f"{middle:.2f}" if middle < 10 else f"{middle:.0f}",
            (min(1, *ratios_of_peer) if is_ahead else max(1, *ratios_of_peer), index),
            xytext=(-2 if is_ahead else 2, 0),
            textcoords="offset points",
            ha="right" if is_ahead else "left",
            va="center",
            fontsize=7,
        )
    panel.axvline(1, color="black", linewidth=1)
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    panel.set_xlim(min(low, 0.25), max(high, 4))
    ticks = [tick for tick in (0.01, 0.1, 0.5, 1, 2, 10, 100) if panel.get_xlim()[0] <= tick <= panel.get_xlim()[1]]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=7)
    panel.minorticks_off()
