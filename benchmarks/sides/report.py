"""What peers.py shows: tables, a plot, and the section of the README that holds both."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from .models import MODELS
from .peers import PEERS, QUESTIONS, Rounds

BENCHMARKS = Path(__file__).resolve().parents[1]
README, PLOT = BENCHMARKS / "README.md", BENCHMARKS / "peers.png"
BEGIN, END = "<!-- peers.py --save writes from here", "<!-- to here -->"
TITLES = {
    "latency": "One call on two workers: times faster than the peer",
    "stream": "A stream of batches: times more a second than the peer",
}
PACKAGES = ("onnxruntime", "numpy", "mpire", "loky", "joblib", "ray")

#: Model -> peer -> its rounds.
Results = dict[str, dict[str, Rounds]]
#: A title, the columns, and the rows, all as text.
Sheet = tuple[str, list[str], list[list[str]]]


def ratios(rounds: Rounds, question: str) -> list[float]:
    """Return how many times faster we were in each round."""
    return [theirs_ms / ours_ms for ours_ms, theirs_ms in rounds[question]]


def sheets(results: Results) -> Iterator[Sheet]:
    """Yield a table a question: peers down, models across; what ours took stands in the last row."""
    for question in QUESTIONS:
        models = [name for name in results if results[name]]
        peers = [peer for peer in PEERS if any(peer in results[name] for name in models)]
        rows = [
            [
                PEERS[peer].title,
                *(spread(ratios(results[name][peer], question)) if peer in results[name] else "" for name in models),
            ]
            for peer in peers
        ]
        rows.append(["ours", *(absolute(results[name], question) for name in models)])
        yield TITLES[question], ["peer", *(MODELS[name].title for name in models)], rows


def spread(values: list[float]) -> str:
    """Return the median and the range of ratios."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def absolute(peers: dict[str, Rounds], question: str) -> str:
    """Return what ours took, over the rounds with all peers."""
    ours_ms = statistics.median(ours_ms for rounds in peers.values() for ours_ms, _ in rounds[question])
    return f"{ours_ms:.3g} ms" if question == "latency" else f"{1e3 / ours_ms:.4g} a second"


def tables(results: Results) -> Iterator[Table]:
    """Yield the tables for a terminal."""
    for title, columns, rows in sheets(results):
        table = Table(title=title)
        table.add_column(columns[0])
        for column in columns[1:]:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*row, end_section=row is rows[-2])
        yield table


def machine() -> str:
    """Return the CPU's model and the versions, in a line."""
    told = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in told if line.startswith("model name")), platform.machine())
    versions = ", ".join(f"{name} {version}" for name in PACKAGES if (version := find_version(name)))
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {cpu}, Python {platform.python_version()}, {versions}"


def find_version(package: str) -> str:
    """Return an installed package's version, or nothing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def save(results: Results, told: str) -> None:
    """Write the plot, and the section of the README between its marks; ``told`` says how it was measured."""
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    mark, _, rest = rest.partition("\n")
    _, _, after = rest.partition(END)
    lines = [told, ""]
    for title, columns, rows in sheets(results):
        lines += [f"**{title}** (median and range of the rounds)", ""]
        lines += [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
        lines += [""]
    draw(results, PLOT)
    written = README.with_suffix(".tmp")
    written.write_text(f"{before}{BEGIN}{mark}\n" + "\n".join(lines) + f"{END}{after}")
    written.replace(README)


def draw(results: Results, path: Path) -> None:
    """Draw the ratios: a panel a model and question, a bar a peer, a line where both are the same."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = [name for name in results if results[name]]
    figure, axes = pyplot.subplots(
        len(QUESTIONS), len(models), figsize=(2.2 * len(models) + 2.5, 7), squeeze=False, layout="constrained"
    )
    for panels, question in zip(axes, QUESTIONS, strict=True):
        for panel, name in zip(panels, models, strict=True):
            draw_panel(panel, results[name], question)
            panel.set_title(MODELS[name].title, fontsize=9)
        panels[0].set_ylabel({"latency": "one call", "stream": "stream of batches"}[question], fontsize=11)
    figure.suptitle(
        "How many times faster ascend_parallel is (1: the same; bars: medians, whiskers: range of the rounds)",
        fontsize=11,
    )
    written = path.with_suffix(".tmp.png")
    figure.savefig(written, dpi=110)
    pyplot.close(figure)
    written.replace(path)


def draw_panel(panel, peers: dict[str, Rounds], question: str) -> None:
    """Draw the bars of one model."""
    values = [ratios(rounds, question) for rounds in peers.values()]
    medians = [statistics.median(some) for some in values]
    ends = [
        [m - min(some) for m, some in zip(medians, values, strict=True)],
        [max(some) - m for m, some in zip(medians, values, strict=True)],
    ]
    colours = ["tab:green" if m >= 1 else "tab:red" for m in medians]
    places = range(len(values))
    panel.barh(places, [m - 1 for m in medians], left=1, xerr=ends, color=colours, ecolor="0.3", capsize=2)
    panel.axvline(1, color="black", linewidth=1)
    panel.set_xscale("log")
    panel.set_yticks(places, [PEERS[peer].title for peer in peers], fontsize=7)
    panel.invert_yaxis()
    for place, m in zip(places, medians, strict=True):
        panel.annotate(
            f"{m:.2f}" if m < 10 else f"{m:.0f}",
            (1, place),
            xytext=(2 if m < 1 else -2, 0),
            textcoords="offset points",
            ha="left" if m < 1 else "right",
            va="center",
            fontsize=7,
        )
    panel.tick_params(axis="x", labelsize=7)
