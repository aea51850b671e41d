"""``ascend-parallel doctor``: examine this machine, and say what to do about what does not work."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ascend_parallel.checks import check_seconds, check_writable
from ascend_parallel.doctor.context import Context
from ascend_parallel.doctor.examine import examine, works
from ascend_parallel.doctor.finding import FAILURE, OK, WARNING, Finding, Layer
from ascend_parallel.doctor.host import Host
from ascend_parallel.doctor.report import to_markdown
from ascend_parallel.files import write_whole

from .arguments import Devices, WorkerPython

__all__ = ["doctor"]

PIPE_WIDTH_COLUMNS = 120  # a pipe has no width
_STYLES = {OK: "green", WARNING: "yellow", FAILURE: "bold red"}
_STATE_COLUMNS, _CHECK_COLUMNS, _MIN_ROOM_COLUMNS = len(WARNING), 26, 20

ReportFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.md",
        help="Write a report for an issue: Markdown without host names, user names and private paths.",
    ),
]
TimeoutS = Annotated[float, typer.Option(help="Time limit of each step, such as the build of a model, in seconds.")]


def doctor(
    devices: Devices = None,
    worker_python: WorkerPython = None,
    report: ReportFile = None,
    timeout_s: TimeoutS = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Examine this machine, and say what to do about what does not work.

    It looks at each layer: kernel, Python, drivers, device files, container, CANN, environment, engines. Then it runs
    a tiny model by every engine that is there, on each device alone and on all together, and compares the results with
    stored ones; it converts the model where a converter is there, and measures the transport. Each step is limited in
    time.

    The exit code is 0 only if the devices work.
    """
    check_seconds("timeout_s", timeout_s)
    if report is not None:
        check_writable("--report", report, [".md"])
    context = Context(Host(), devices, worker_python, timeout_s)
    layers = list(_collect(context) if as_json else _show(context))
    if as_json:
        print(json.dumps(_as_json(context, layers), indent=2))
    if report is not None:
        text = to_markdown(layers, ", ".join(map(str, context.devices)))
        write_whole(report, lambda file: file.write(text.encode()))
    if not works(layers):
        raise typer.Exit(1)


def _collect(context: Context) -> Iterator[Layer]:
    return examine(context)


def _show(context: Context) -> Iterator[Layer]:
    """Print each layer as soon as it is done."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH_COLUMNS
    status = console.status("examining ...") if console.is_terminal else contextlib.nullcontext()
    with status:
        for layer in examine(context):
            _print_layer(console, layer)
            yield layer


def _print_layer(console: Console, layer: Layer) -> None:
    console.print(Text(layer.title, "bold"))
    for finding in layer.findings:
        for line in _lines_of(finding, console.width):
            console.print(line, soft_wrap=True)
    console.print()


def _lines_of(finding: Finding, columns: int) -> Iterator[Text]:
    """Yield the lines of a finding: its state, its check and beside it what was seen; below, what to do."""
    wrap = functools.partial(textwrap.wrap, break_on_hyphens=False)
    room = max(columns - _STATE_COLUMNS - _CHECK_COLUMNS - 2, _MIN_ROOM_COLUMNS)
    checks, seen = wrap(finding.check, _CHECK_COLUMNS), wrap(finding.seen, room)
    for number, (left, right) in enumerate(itertools.zip_longest(checks, seen, fillvalue="")):
        state = Text(f"{'' if number else finding.state:{_STATE_COLUMNS}} ", _STYLES[finding.state])
        yield Text.assemble(state, f"{left:{_CHECK_COLUMNS}} {right}".rstrip())
    indent = " " * (_STATE_COLUMNS + 1)
    advice = f"-> {finding.advice}" if finding.advice else ""
    for line in wrap(advice, columns, initial_indent=indent, subsequent_indent=indent + "   "):
        yield Text(line, "bold")


def _as_json(context: Context, layers: Sequence[Layer]) -> dict[str, object]:
    return {
        "works": works(layers),
        "devices": list(map(str, context.devices)),
        "layers": [
            {"title": layer.title, "findings": [finding.to_json() for finding in layer.findings]} for layer in layers
        ],
    }
