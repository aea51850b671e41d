"""The commands, by name; the module of a command is imported when the command is used.

``--help`` and a wrong name need the names and summaries only, which are here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from ascend_parallel import __version__

__all__ = ["COMMANDS", "app"]


class LazyCommand(NamedTuple):
    """Where a command is, and what ``--help`` says of it.

    Attributes:
        module: the module of ``cli/`` that defines it.
        function: the name of its function there.
        summary: the first sentence of the function's docstring.
    """

    module: str
    function: str
    summary: str


COMMANDS = {
    "devices": LazyCommand("devices", "show_devices", "Show the devices of this machine and the default devices."),
    "engines": LazyCommand("engines", "show_engines", "Show the engines, and whether they can run here."),
    "doctor": LazyCommand("doctor", "doctor", "Examine this machine, and say what to do about what does not work."),
    "run": LazyCommand("run", "run", "Run a batch through a model on all devices."),
    "info": LazyCommand("info", "info", "Show a model's inputs and outputs."),
    "bench": LazyCommand("bench", "bench", "Measure throughput, latency and efficiency on the devices."),
    "map": LazyCommand("map", "map_command", "Run a pipeline over a folder of files, on all devices."),
    "serve": LazyCommand(
        "serve",
        "serve",
        "Serve models over HTTP and gRPC, by the Open Inference Protocol; requests are batched over all devices.",
    ),
    "convert": LazyCommand(
        "convert",
        "convert",
        "Convert an ONNX file to MINDIR or OM files for the devices, or to an ONNX file of lower precision.",
    ),
    "migrate": LazyCommand(
        "migrate", "migrate", "Convert the configuration of another server into one for ascend-parallel serve."
    ),
}


class _Loaded(Mapping[str, Any]):
    """Command name -> the command; it is imported when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        command = COMMANDS[name]
        module = importlib.import_module(f".{command.module}", __package__)
        single = _new_app()
        single.command(name, context_settings=getattr(module, "CONTEXT", None))(getattr(module, command.function))
        return typer.main.get_command(single)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _LazyGroup(TyperGroup):
    """A group that lists its commands without importing them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Loaded()  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])


def _new_app(**settings: Any) -> typer.Typer:
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **settings)


app = _new_app(
    name="ascend-parallel",
    cls=_LazyGroup,
    help="Run one model on all the devices of a machine: Ascend cards, GPUs, CPUs.",
    no_args_is_help=True,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"ascend-parallel {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks, including the workers'.")] = False,
) -> None:
    """Run one model on all the devices of a machine: Ascend cards, GPUs, CPUs."""
