"""``ascend-parallel engines``: what runs models, and whether it can be imported here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ascend_parallel.engine_list import EngineInfo, RuntimeInfo, list_engines

from .arguments import WorkerPython

__all__ = ["engines_command", "show_engines"]

PIPE_WIDTH_COLUMNS = 200  # a pipe has no width, and a row in one line can be grepped
#: What MODEL is for engines whose models are no files.
_MODELS = {"callable": "module:factory"}


def show_engines(
    engine: Annotated[
        list[str] | None,
        typer.Argument(metavar="ENGINE", help="Which engines. [default: those of this package]"),
    ] = None,
    worker_python: WorkerPython = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the engines, and whether they can run here.

    For each engine: its model files, its devices, its options, and whether its runtime can be imported by this Python
    and, if it is given, by --worker-python. The imports run in processes of their own.

    An engine of your own is named package.module:EngineClass or path/to/file.py:EngineClass. The engines that map uses
    for pipelines are not listed; they are chosen by PIPELINE.
    """
    engines_command(engine or [], worker_python, as_json)


def engines_command(names: Sequence[str], worker_python: Path | None, as_json: bool) -> None:
    """Print engines and the state of their runtimes to stdout.

    Args:
        names: which; empty: those that come with this package.
        worker_python: an interpreter that is to import the runtimes, too.
        as_json: a JSON list in a table's place.

    Raises:
        UsageError: there is no such engine, it cannot be loaded here, or ``worker_python`` is no executable.
    """
    engines = list_engines(names, worker_python)
    if as_json:
        print(json.dumps([info.to_json() for info in engines], indent=2))
    else:
        _print_table(engines)


def _print_table(engines: Sequence[EngineInfo]) -> None:
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH_COLUMNS
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    titles = ["Engine", "Models", "Devices", "Runtime here", "Runtime of workers"]
    for title in titles if engines[0].worker is not None else titles[:-1]:
        table.add_column(title, overflow="fold")
    for info in engines:
        table.add_row(*_cells(info))
    console.print(table, "", sep="\n")
    for line in _lines_under(engines):
        console.print(line, soft_wrap=not console.is_terminal)


def _cells(info: EngineInfo) -> Iterator[str]:
    engine = info.engine
    yield engine.name
    yield ", ".join(engine.suffixes) or _MODELS.get(engine.name, "any text")
    yield ", ".join(engine.device_types)
    for runtime in (info.here, info.worker):
        if runtime is not None:
            yield runtime.state


def _lines_under(engines: Sequence[EngineInfo]) -> Iterator[str]:
    for info in engines:
        yield f"Options of {info.engine.name}: {_describe_options(info)}"
    for info in engines:
        for runtime in (info.here, info.worker):
            if runtime is not None and runtime.error:
                yield _describe_error(info, runtime)


def _describe_options(info: EngineInfo) -> str:
    options = info.engine.options
    if options is None:
        return "any, they are the model's own"
    words = [f"{name} ({' or '.join(kind.__name__ for kind in types)})" for name, types in options.items()]
    return ", ".join(words) or "none"


def _describe_error(info: EngineInfo, runtime: RuntimeInfo) -> str:
    is_missing = runtime.state == "missing"
    install = f"; to install it: {info.engine.install}" if is_missing and info.engine.install else ""
    return f"{info.engine.name} cannot be used by {runtime.python}: {runtime.error}{install}"
