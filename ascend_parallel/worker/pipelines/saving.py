"""Saves results to files, atomically.

A result with a ``save_to_json`` method is saved by it. Otherwise dicts and lists become JSON, arrays (and dicts of
arrays) .npz, PIL images .png, strings .txt. The output's name is the input's whole name plus that suffix, so that
``same.jpg`` and ``same.png`` do not collide. The outputs of a file with several results are numbered: ``x.pdf_0.json``.
"""

from __future__ import annotations

import errno
import itertools
import os
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from .json_text import JsonEncoder

#: The prefix of files that are being written. They are in the folder of the final file: a rename between two folders
#: takes a lock that all workers share.
PARTIAL = ".partial-"
#: Errors that the next file would have too.
_ERRNOS_OF_DISKS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOENT,
    errno.EMFILE,
)

_JSON = JsonEncoder()


class SaveError(Exception):
    """The output folder accepts no more files: it is full, missing, or not writable."""


class Saver:
    """Saves results below one folder; for one thread."""

    _numbers = itertools.count()

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._created_folders = {""}

    def save(self, name: str, page: Optional[int], result: Any) -> str:
        """Write a result.

        Args:
            name: the input's name, with its sub-folder and suffix.
            page: the number of the result among the results of its input; None for the only one.
            result: the result of the pipeline.

        Returns:
            The path of the file, relative to the folder.

        Raises:
            SaveError: if the disk is full, or the folder is not writable.
            TypeError: if there is no file format for the result's type.
        """
        suffix, write_to = choose_format(result)
        output = name + ("" if page is None else "_%d" % page) + suffix
        folder, slash, _ = output.rpartition("/")
        partial = "%s/%s%s%s%d-%d%s" % (
            *(self._folder, folder, slash, PARTIAL),
            *(os.getpid(), next(self._numbers), suffix),
        )
        path = "%s/%s" % (self._folder, output)
        try:
            self._make_folder(folder)
            write_to(partial)
            os.replace(partial, path)
        except OSError as error:
            self._remove(partial)
            if error.errno in _ERRNOS_OF_DISKS:
                raise SaveError("%s could not be written: %s" % (path, error.strerror)) from error
            raise
        except BaseException:
            self._remove(partial)
            raise
        return output

    def remove(self, outputs: List[str]) -> None:
        """Remove the files of a batch that has failed."""
        for output in outputs:
            self._remove(os.path.join(self._folder, output))

    def _make_folder(self, folder: str) -> None:
        if folder not in self._created_folders:
            os.makedirs(os.path.join(self._folder, folder), exist_ok=True)
            self._created_folders.add(folder)

    def _remove(self, path: str) -> None:
        try:
            os.unlink(path)
        except OSError:
            pass  # the file does not exist


def is_error_of_disk(error: OSError, folder: str) -> bool:
    """Whether saving another file below the folder would fail in the same way."""
    named = error.filename
    return error.errno in _ERRNOS_OF_DISKS and (named is None or os.fsdecode(named).startswith(folder))


def choose_format(result: Any) -> Tuple[str, Callable[[str], None]]:
    """Return the suffix for a result, and the function that writes it to a path.

    Raises:
        TypeError: if there is no file format for the result's type.
    """
    if hasattr(result, "save_to_json"):
        return ".json", lambda path: result.save_to_json(path)
    if isinstance(result, np.ndarray):
        return ".npz", lambda path: _write_arrays(path, {"output": result})
    if isinstance(result, dict) and result and all(isinstance(item, np.ndarray) for item in result.values()):
        return ".npz", lambda path: _write_arrays(path, result)
    if type(result).__module__.startswith("PIL.") and hasattr(result, "save"):
        return ".png", lambda path: result.save(path)
    if isinstance(result, str):
        return ".txt", lambda path: _write(path, result.encode("utf-8", "surrogateescape"))
    if isinstance(result, (bytes, bytearray)):
        raise TypeError("the result is %s, which has no file format; return a str, dict, list or array" % type(result))
    return ".json", lambda path: _write(path, _JSON.encode(result))


def _write(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        written = file.write(data)
        while written < len(data):
            written += file.write(data[written:])


def _write_arrays(path: str, arrays: Dict[Any, Any]) -> None:
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError("array %r contains Python objects, which .npz files do not support; return numbers" % name)
    np.savez(path, **{str(name): array for name, array in arrays.items()})
