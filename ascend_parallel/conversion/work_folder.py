"""The work folder of a conversion: a hidden folder beside the result, which makes the conversion atomic."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ascend_parallel.errors import DiskError

PREFIX = ".converting-"
#: An older folder without an owner is removed; a younger one may be about to be locked.
STALE_AFTER_S = 60.0


@contextlib.contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """Create a hidden folder in ``folder`` (and that, if it does not exist); remove it at the end with its content.

    Folders that killed conversions have left are removed first. Folders created for a conversion that failed are
    removed, too.

    Raises:
        DiskError: if a file could not be written; the message names the folder.
    """
    created_folders = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        work = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield work
        finally:
            _remove(work)
            os.close(lock)
    except BaseException as error:
        for parent in created_folders:
            with contextlib.suppress(OSError):
                parent.rmdir()  # fails if it is not empty
        if isinstance(error, OSError) and not isinstance(error, DiskError):
            raise DiskError(f"{folder} could not be written to: {error.strerror or error}") from error
        raise


def _remove_stale(folder: Path) -> None:
    for old in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime < STALE_AFTER_S:
                continue
            lock = os.open(old, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(old)
            finally:
                os.close(lock)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def install(outputs: Sequence[Path], folder: Path) -> list[Path]:
    """Move files and folders to their final folder, with the permissions of new files.

    MindSpore Lite creates its files read-only, and readable only by their owner.
    """
    mask = os.umask(0)
    os.umask(mask)
    installed = []
    for item in outputs:
        for part in (item, *item.rglob("*")) if item.is_dir() else (item,):
            part.chmod((0o777 if part.is_dir() else 0o666) & ~mask)
        final = folder / item.name
        if final.is_dir():
            _remove(final)
        item.replace(final)
        installed.append(final)
    return installed
