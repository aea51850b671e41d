"""Files that are written whole or not at all, and whether they can be, asked before anything is started."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from ascend_parallel.errors import DiskError, UsageError


def check_writable(what: str, path: Path, suffixes: Sequence[str]) -> None:
    """Check that a file can be written there.

    Args:
        what: how messages name it: an option, such as ``"--plot"``.
        path: where it is to be.
        suffixes: those that it may have, such as ``[".png", ".svg"]``.

    Raises:
        UsageError: it has another suffix, its folder is missing, or either cannot be written to.
    """
    if path.suffix not in suffixes:
        raise UsageError(f"{what} {path} does not end in {' or '.join(suffixes)}")
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"{what} {path}: there is no folder {folder}; make it first")
    if path.is_dir():
        raise UsageError(f"{what} {path} is a folder; expected the name of a file")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{what} {path} cannot be written: check the permissions of {folder}")


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Have a file written under a temporary name next to it, and rename it when all is there.

    Raises:
        DiskError: it could not be written; what was there before is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                write(file)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DiskError(f"{path} could not be written: {error.strerror or error}") from error
