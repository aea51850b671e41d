"""``ascend-parallel migrate``: the configuration of another server, written as ours."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ascend_parallel.checks import check_installed, check_writable
from ascend_parallel.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from ascend_parallel.migration.paddle_serving import Migrated


class Server(str, Enum):
    """A server whose configuration can be read."""

    PADDLE_SERVING = "paddle-serving"


From = Annotated[Server, typer.Argument(metavar="SERVER", help="Whose configuration it is: paddle-serving.")]
Config = Annotated[Path, typer.Argument(metavar="CONFIG.yml", help="The configuration file of that server.")]
WebService = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.py",
        help="The Python file that builds the ops, such as web_service.py; migrate imports it. [default: the output "
        "marks where the graph is to be filled in]",
    ),
]
WorkerPython = Annotated[
    Path | None,
    typer.Option(
        help="Python interpreter that has what the file of --web-service imports; the ops run under it. [default: "
        "the one of this command]"
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE.yml", help="File to write. [default: standard output]"),
]


def migrate(
    server: From,
    config: Config,
    web_service: WebService = None,
    output: Output = None,
    worker_python: WorkerPython = None,
) -> None:
    """Convert the configuration of another server into one for ascend-parallel serve.

    Settings without a counterpart are reported on standard error, each with its line and what to do. Paths in the
    output are relative to its folder. Example:

    ascend-parallel migrate paddle-serving config.yml --web-service web_service.py -o serve.yml
    """
    check_installed("migrate", "yaml", "pip install 'ascend-parallel[serve]'")
    if output is not None:
        check_writable("output", output, [".yml", ".yaml"])
    migrated = read(config, web_service, output, worker_python)
    for note in migrated.notes:
        print(note, file=sys.stderr)
    if output is None:
        print(migrated.text, end="")
        return
    from ascend_parallel.migration.paddle_serving import write_file

    write_file(migrated, output)
    print(f"wrote {output}; check it by: ascend-parallel serve {output} --check")


def read(config: Path, web_service: Path | None, output: Path | None, worker_python: Path | None) -> Migrated:
    """Return what a configuration becomes; what is wrong in it is printed, a line each."""
    from ascend_parallel.migration.paddle_serving import migrate as migrate_paddle_serving

    try:
        return migrate_paddle_serving(
            str(config),
            None if web_service is None else str(web_service),
            folder=None if output is None else str(output.parent),
            worker_python=None if worker_python is None else str(worker_python),
        )
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise UsageError(f"{config} cannot be migrated; nothing was written") from error
