"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ascend_parallel.errors import DiskError


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
