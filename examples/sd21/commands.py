"""What the example's commands have in common: errors of one line, exit codes by their class, missing packages."""

from __future__ import annotations

import importlib.util
import sys
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

import typer

from ascend_parallel import AscendParallelError, UsageError
from ascend_parallel.cli import one_line

INTERRUPTED = 130  # what a shell reports for a process ended by Ctrl-C

#: What typer raises for a command line that it cannot read; it shows its base nowhere.
COMMAND_LINE_ERRORS: Any = tuple(kind for kind in typer.BadParameter.__mro__ if hasattr(kind, "format_message"))


def new_app() -> typer.Typer:
    """Return a command line without completion, whose errors :func:`run_app` tells."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def need_packages(needed: Mapping[str, str], install: str) -> None:
    """Raise UsageError where a package is missing.

    Args:
        needed: module -> the package that has it.
        install: what installs them all.
    """
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"this example needs {' and '.join(missing)}: pip install {install}")


def run_app(app: typer.Typer, name: str) -> None:
    """Run a command line; the process ends with the error's exit code.

    Args:
        app: of one command.
        name: of the program, such as "main.py", with which its messages begin.
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
    """Tell an error in one line, with --debug its tracebacks before, and end."""
    if "--debug" in sys.argv:
        traceback.print_exception(error)
        print(getattr(error, "remote_traceback", ""), file=sys.stderr, end="")
    print(f"{name}: error: {message}", file=sys.stderr)
    sys.exit(code)
