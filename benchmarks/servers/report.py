"""The output of serving.py: tables, a plot, and the section of the README with both."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sides.report import BENCHMARKS, README, Sheet, draw_panel, markdown, spread, write_section
from sides.report import machine as describe_machine

from .load import Sample
from .models import MODELS
from .registry import BOUNDS, OURS, SERVERS
from .server import python_of

PLOT = BENCHMARKS / "serving.png"
BEGIN = "<!-- serving.py --save writes from here"
#: Server -> round -> number of connections -> what was measured.
ModelResults = dict[str, dict[int, dict[int, Sample]]]
#: Model -> its results.
Results = dict[str, ModelResults]
METRICS = {"requests_per_s": "requests/s", "p99_ms": "p99"}
#: How many times more requests a second are wanted with one model, by server and number of connections.
GOAL_MODEL = "mlp"
GOALS = {
    "mosec": {1: 5.0, 16: 1.7, 64: 1.25},
    "triton": {1: 2.0, 16: 2.0, 64: 2.0},
    "litserve": {1: 15.0, 16: 15.0, 64: 15.0},
}


def ratios(results: ModelResults, server: str, connections: int, metric: str) -> list[float]:
    """Return how many times better we are than a server, in each round that has both; above 1 we are ahead."""
    pairs = [
        (getattr(ours[connections], metric), getattr(results[server][turn][connections], metric))
        for turn, ours in results.get(OURS, {}).items()
        if turn in results.get(server, {})
    ]
    if metric == "requests_per_s":
        return [ours / theirs for ours, theirs in pairs]
    return [theirs / ours for ours, theirs in pairs]


def medians(results: ModelResults, server: str, connections: int) -> Sample | None:
    """Return the medians over the rounds of a server."""
    samples = [samples[connections] for samples in results.get(server, {}).values()]
    return Sample(*map(statistics.median, zip(*samples, strict=True))) if samples else None


def connections_of(results: Results) -> list[int]:
    """Return the numbers of connections that were measured."""
    return sorted(
        {count for rounds in results.values() for turns in rounds.values() for one in turns.values() for count in one}
    )


def sheets(results: Results) -> Iterator[Sheet]:
    """Yield the tables: goals, then per model ratios and figures, then what the protocol costs."""
    counts = connections_of(results)
    if any(rounds.get(OURS) for rounds in results.values()):
        yield goal_sheet(results, counts)
        for model, rounds in results.items():
            yield ratio_sheet(model, rounds, counts)
    for model, rounds in results.items():
        yield figure_sheet(model, rounds, counts)
    if any(rounds.get(bound) for rounds in results.values() for bound in BOUNDS):
        yield cost_sheet(results, counts)


def goal_sheet(results: Results, counts: list[int]) -> Sheet:
    """Return the goals and what was reached, and in a row per model where we are behind."""
    rows = [goal_row(results[GOAL_MODEL], server, counts) for server in GOALS if GOAL_MODEL in results]
    for model, rounds in results.items():
        title = f"behind with {MODELS[model].model.title}"
        rows.append([title, *("; ".join(behind_at(rounds, count)) or "none" for count in counts)])
    title = f"Goals with {MODELS[GOAL_MODEL].model.title}, times the server's requests a second; and who is ahead of us"
    return title, ["server", *(f"{count} connections" for count in counts)], rows


def goal_row(rounds: ModelResults, server: str, counts: list[int]) -> list[str]:
    """Return what was reached against a server, and the goal where there is one."""
    cells = []
    for count in counts:
        values = ratios(rounds, server, count, "requests_per_s")
        reached = f"{statistics.median(values):.2f}" if values else "-"
        cells.append(f"{reached} of {GOALS[server][count]:g}" if count in GOALS[server] else reached)
    return [SERVERS[server].title, *cells]


def behind_at(rounds: ModelResults, count: int) -> list[str]:
    """Return the peers with more requests a second or a lower p99 than ours, in words."""
    found = []
    for server in peers_of(rounds):
        behind = [
            word
            for metric, word in METRICS.items()
            if (values := ratios(rounds, server, count, metric)) and statistics.median(values) < 1
        ]
        found += [f"{SERVERS[server].title}: {', '.join(behind)}"] if behind else []
    return found


def peers_of(rounds: ModelResults) -> list[str]:
    """Return the servers that were measured and that we compare ourselves with."""
    return [server for server in SERVERS if rounds.get(server) and server not in (OURS, *BOUNDS)]


def ratio_sheet(model: str, rounds: ModelResults, counts: list[int]) -> Sheet:
    """Return how many times better we are than each peer."""
    rows = [
        [
            SERVERS[server].title,
            *(
                spread(ratios(rounds, server, count, metric) or [float("nan")])
                for count in counts
                for metric in METRICS
            ),
        ]
        for server in peers_of(rounds)
    ]
    columns = [f"{count}: {word}" for count in counts for word in METRICS.values()]
    return f"{MODELS[model].model.title}: times better than the server, by connections", ["server", *columns], rows


def figure_sheet(model: str, rounds: ModelResults, counts: list[int]) -> Sheet:
    """Return each server's own figures."""
    rows = []
    for server, kind in SERVERS.items():
        if rounds.get(server):
            samples = [medians(rounds, server, count) for count in counts]
            cells = [f"{s.requests_per_s:,.0f}/s; {s.p50_ms:.3g}, {s.p99_ms:.3g} ms" for s in samples if s]
            rows.append([kind.title, *cells, ", ".join(f"{s.cpu_us:,.0f}" for s in samples if s)])
    columns = ["server", *(f"{count} connections" for count in counts), "CPU, us a request"]
    return f"{MODELS[model].model.title}: requests a second; p50, p99", columns, rows


def cost_sheet(results: Results, counts: list[int]) -> Sheet:
    """Return the CPU time of all processes for a request: of us, of the bare scheme, of HTTP alone."""
    rows = []
    for model, rounds in results.items():
        for count in counts:
            samples = [medians(rounds, server, count) for server in (OURS, *BOUNDS)]
            cells = [f"{sample.cpu_us:.0f}" if sample else "" for sample in samples]
            ours, bare = samples[:2]
            cells.append(f"{ours.cpu_us - bare.cpu_us:.0f}" if ours and bare else "")
            rows.append([MODELS[model].model.title, str(count), *cells])
    titles = [SERVERS[server].title for server in (OURS, *BOUNDS)]
    columns = ["model", "connections", *titles, "protocol, checks, metrics"]
    return "CPU time of all processes of the server, us a request", columns, rows


def conditions(servers: list[str], venvs: Path) -> str:
    """Return the machine and the versions of all servers, in one line."""
    versions = [f"{kind.package} {find_version(kind.package, python_of(kind.venv, venvs))}" for kind in kinds(servers)]
    return f"{describe_machine()}; {', '.join(versions)}"


def kinds(servers: list[str]) -> list:
    """Return the peers among the servers."""
    return [SERVERS[server] for server in servers if SERVERS[server].package]


def find_version(package: str, python: str) -> str:
    """Return the version of a package that another Python has."""
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    return subprocess.run([python, "-c", code, package], capture_output=True, text=True, check=True).stdout.strip()


def save(results: Results, measured: str) -> None:
    """Write the plot, and the section of the README between its marks; ``measured`` describes the measurement."""
    draw(results, PLOT)
    tuning = [f"- {kind.title}: {kind.tuning}." for name, kind in SERVERS.items() if name not in BOUNDS]
    lines = [measured, "", f"![bars of how many times better we are, by model and server]({PLOT.name})", ""]
    lines += markdown(sheets(results), "medians of the rounds")
    write_section(README, BEGIN, [*lines, "How each server is tuned:", "", *tuning, ""])


def draw(results: Results, path: Path) -> None:
    """Draw the ratios: a row of panels per metric and number of connections, a column per model, a bar per peer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = connections_of(results)
    rows = [(metric, count) for metric in METRICS for count in counts]
    peers = [server for server in SERVERS if any(server in peers_of(rounds) for rounds in results.values())]
    figure, axes = pyplot.subplots(
        len(rows),
        len(results),
        figsize=(2.6 * len(results) + 2.5, (0.24 * len(peers) + 0.6) * len(rows) + 0.8),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for panels, (metric, count) in zip(axes, rows, strict=True):
        for panel, (model, rounds) in zip(panels, results.items(), strict=True):
            draw_panel(panel, [ratios(rounds, server, count, metric) for server in peers])
            panel.set_title(MODELS[model].model.title if (metric, count) == rows[0] else "", fontsize=9)
        panels[0].set_yticks(range(len(peers)), [SERVERS[server].title for server in peers], fontsize=7)
        panels[0].set_ylabel(f"{METRICS[metric]}\n{count} connections", fontsize=8)
    axes[0][0].invert_yaxis()
    title = "How many times better ascend_parallel is; 1 is equal. Bars: medians; whiskers: range of the rounds"
    figure.suptitle(title, wrap=True, fontsize="medium")
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
    temporary.replace(path)
