"""Where a conversion works: a hidden folder beside the result, so that nothing half made bears the result's name."""

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
#: A folder whose owner is gone is removed when it is older than this; a younger one may be about to be locked.
STALE_AFTER_S = 60.0


@contextlib.contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """Make a hidden folder in ``folder`` (which is made, too), and remove it at the end, with all that is in it.

    What others left here, killed in the middle, is removed first. Folders that were made for a conversion that failed
    are removed as well.

    Raises:
        DiskError: a file could not be written; the message names the folder.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
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
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()  # only where it is empty
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


def install(made: Sequence[Path], folder: Path) -> list[Path]:
    """Move files and folders to where they belong, with the permissions that a new file has here.

    MindSpore Lite writes its files readable for their owner alone, and not writable.
    """
    mask = os.umask(0)
    os.umask(mask)
    installed = []
    for item in made:
        for part in (item, *item.rglob("*")) if item.is_dir() else (item,):
            part.chmod((0o777 if part.is_dir() else 0o666) & ~mask)
        final = folder / item.name
        if final.is_dir():
            _remove(final)
        item.replace(final)
        installed.append(final)
    return installed
