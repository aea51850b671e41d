"""The command line: ``ascend-parallel run | map | serve | bench | convert | info | devices | engines``.

An error is one line on stderr. Its class determines the exit code (see errors.py). ``--debug`` prints tracebacks.
"""

from __future__ import annotations

import re
import sys
import traceback
from typing import Annotated

import typer

from ascend_parallel import __version__
from ascend_parallel.errors import AscendParallelError, EngineError

from .arguments import WorkerPython
from .bench import bench
from .convert import convert
from .info import info
from .map import CONTEXT, map_command
from .run import run
from .serve import serve

__all__ = ["app", "main"]

_PYTHON_NAME = re.compile(r"""(?<![\w/.'"-])[a-z]+(?:_[a-z]+)+(?![\w/.'"-])""")
#: The exit code that a shell reports for a process ended by Ctrl-C.
INTERRUPTED = 130

app = typer.Typer(
    name="ascend-parallel",
    help="Run one model on all the devices of a machine: Ascend cards, GPUs, CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
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


@app.command("devices")
def show_devices(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the devices of this machine and the default devices."""
    from .devices import devices_command

    devices_command(as_json)


@app.command("engines")
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
    from .engines import engines_command

    engines_command(engine or [], worker_python, as_json)


app.command()(run)
app.command()(info)
app.command()(bench)
app.command("map", context_settings=CONTEXT)(map_command)
app.command()(serve)
app.command()(convert)


def main() -> None:
    """Run the command line; exit with the error's exit code."""
    try:
        app(prog_name="ascend-parallel")
    except AscendParallelError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
            print(getattr(error, "remote_traceback", "") or getattr(error, "log", ""), file=sys.stderr, end="")
        print(f"ascend-parallel: error: {one_line(error)}", file=sys.stderr)
        sys.exit(error.exit_code_of_cli)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def one_line(error: AscendParallelError) -> str:
    """Return an error's message as one line, without the worker's last output lines, which were printed before."""
    message = str(error).split("\n  its last lines:")[0]
    hint = " (--debug shows the worker's traceback)" if isinstance(error, EngineError) else ""
    return name_options(" ".join(message.split())) + hint


def name_options(text: str) -> str:
    """Return a message with the names of command line options: ``--batch-size`` for Python's ``batch_size``.

    Only words with an underscore are replaced, and not inside paths or quotes.
    """
    commands = typer.main.get_group(app).commands.values()
    options = {param.name: param.opts[-1] for command in commands for param in command.params}
    return _PYTHON_NAME.sub(lambda word: options.get(word[0], word[0]), text)


if __name__ == "__main__":
    main()
