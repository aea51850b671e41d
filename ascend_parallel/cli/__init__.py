"""The command line: ``ascend-parallel COMMAND``.

An error is one line on stderr. Its class determines the exit code (see errors.py). ``--debug`` prints tracebacks.

The commands are in app.py, which :func:`main` imports: typer takes longer to import than ``--version`` may take.
"""

from __future__ import annotations

import gc
import re
import sys

from ascend_parallel import __version__
from ascend_parallel.errors import AscendParallelError, EngineError

__all__ = ["main"]

_PYTHON_NAME = re.compile(r"""(?<![\w/.'"-])[a-z]+(?:_[a-z]+)+(?![\w/.'"-])""")
#: The exit code that a shell reports for a process ended by Ctrl-C.
INTERRUPTED = 130


def main() -> None:
    """Run the command line; exit with the error's exit code."""
    if sys.argv[1:] == ["--version"]:
        print(f"ascend-parallel {__version__}")
        return
    from .app import app

    gc.freeze()  # else the exit collects these modules three times; what a model makes later is collected as ever
    try:
        app(prog_name="ascend-parallel")
    except AscendParallelError as error:
        if "--debug" in sys.argv:
            _print_traceback(error)
        print(f"ascend-parallel: error: {one_line(error)}", file=sys.stderr)
        sys.exit(error.exit_code_of_cli)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _print_traceback(error: AscendParallelError) -> None:
    import traceback

    traceback.print_exception(error)
    print(getattr(error, "remote_traceback", "") or getattr(error, "log", ""), file=sys.stderr, end="")


def one_line(error: AscendParallelError) -> str:
    """Return an error's message as one line, without the worker's last output lines, which were printed before."""
    from ascend_parallel.backends.last_lines import in_one_line

    hint = " (--debug shows the worker's traceback)" if isinstance(error, EngineError) else ""
    return name_options(in_one_line(error)) + hint


def name_options(text: str) -> str:
    """Return a message with the names of command line options: ``--batch-size`` for Python's ``batch_size``.

    Only words with an underscore are replaced, and not inside paths or quotes.
    """
    if not _PYTHON_NAME.search(text):
        return text
    from typer.main import get_group

    from .app import app

    commands = get_group(app).commands.values()
    options = {param.name: param.opts[-1] for command in commands for param in command.params}
    return _PYTHON_NAME.sub(lambda word: options.get(word[0], word[0]), text)


if __name__ == "__main__":
    main()
