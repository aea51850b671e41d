"""Files of arrays, and files that are written whole or not at all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from ascend_parallel.checks import check_file
from ascend_parallel.errors import DiskError, UsageError


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


def read_arrays(what: str, path: Path) -> Mapping[str, Any]:
    """Return the arrays of an .npz file, by name.

    Args:
        what: the kind of file, or the option that names it, such as ``"--input"``.
        path: the file.

    Raises:
        UsageError: if the file does not exist, is not an .npz file, or contains Python objects.
    """
    import numpy as np

    check_file(what, path, "; expected an .npz file with the model's inputs")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded as archive:
                return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{what} {path} is not an .npz file of plain arrays: {error}") from None
    raise UsageError(f"{what} {path} contains one array without a name; save it with numpy.savez(file, NAME=array)")
