"""Atomic writes, and a check before the start that a file can be written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from ascend_parallel.errors import DiskError, UsageError


def check_writable(what: str, path: Path, suffixes: Sequence[str]) -> None:
    """Check that a file can be written.

    Args:
        what: the name of the option, for the error text, such as ``"--plot"``.
        path: the file to write.
        suffixes: the accepted suffixes, such as ``[".png", ".svg"]``.

    Raises:
        UsageError: if the file has another suffix, its folder does not exist, or it is not writable.
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


def write_whole(path: Path, write_content: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically: to a temporary file beside it, which is renamed when it is complete.

    Args:
        path: the file to write.
        write_content: writes the content to the open file that it is given.

    Raises:
        DiskError: if the file could not be written; an existing file is left unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                write_content(file)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DiskError(f"{path} could not be written: {error.strerror or error}") from error
