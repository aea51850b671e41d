"""Common parts of the example's commands: one-line errors, exit codes by error class, missing packages."""

from __future__ import annotations

import importlib.util
import sys
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from ascend_parallel import AscendParallelError, UsageError
from ascend_parallel.cli import one_line

#: The folder of the tiny model.
TINY = Path(__file__).resolve().parent / "tiny"
INTERRUPTED = 130  # the exit code that a shell reports for a process ended by Ctrl-C

#: The base classes of typer's errors for invalid command lines; typer does not export them.
COMMAND_LINE_ERRORS: Any = tuple(kind for kind in typer.BadParameter.__mro__ if hasattr(kind, "format_message"))


def new_app() -> typer.Typer:
    """Return a command line application without completion; :func:`run_app` reports its errors."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def need_packages(needed: Mapping[str, str], install: str) -> None:
    """Check that packages are installed; raises UsageError.

    Args:
        needed: module -> its package.
        install: the arguments of pip that install all of them.
    """
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"this example needs {' and '.join(missing)}: pip install {install}")


def run_app(app: typer.Typer, name: str) -> None:
    """Run a command line application; the process exits with the error's exit code.

    Args:
        app: an application with one command.
        name: the name of the program in messages, such as "main.py".
    """
    warnings.showwarning = lambda message, *_, **__: print(f"{name}: warning: {message}", file=sys.stderr)
    try:
        sys.exit(app(prog_name=name, standalone_mode=False))
    except AscendParallelError as error:
        _fail(name, error, one_line(error), error.exit_code_of_cli)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except COMMAND_LINE_ERRORS as error:
        _fail(name, error, error.format_message(), UsageError.exit_code_of_cli)


def _fail(name: str, error: BaseException, message: str, code: int) -> None:
    """Print an error as one line, with --debug after its tracebacks, and exit."""
    if "--debug" in sys.argv:
        traceback.print_exception(error)
        print(getattr(error, "remote_traceback", ""), file=sys.stderr, end="")
    print(f"{name}: error: {message}", file=sys.stderr)
    sys.exit(code)
