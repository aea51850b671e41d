"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ascend_parallel.errors import DiskError


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
