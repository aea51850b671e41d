"""Results saved to files, each whole or not at all.

A result's own ``save_to_json`` is used where it has one. Else dicts and lists become JSON, arrays (and dicts of nothing
but arrays) .npz, PIL images .png, strings .txt. The name is the input's whole name with that suffix behind, so that
``same.jpg`` and ``same.png`` do not meet; a file with several results has them numbered: ``x.pdf_0.json``.
"""

from __future__ import annotations

import errno
import itertools
import os
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from .json_text import JsonEncoder

#: What names of files begin with that are being written. They lie in the folder they are for: a rename from one folder
#: to another takes a lock that all workers share.
PARTIAL = ".partial-"
#: Errors that the next file would meet, too.
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


class CannotSave(Exception):
    """The output folder takes no more files: it is full, gone, or not writable."""


class Saver:
    """Saves results under one folder, from one thread."""

    _numbers = itertools.count()

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._made = {""}

    def save(self, name: str, page: Optional[int], result: Any) -> str:
        """Write a result.

        Args:
            name: the input's name, with its sub-folder and suffix.
            page: its number among the results of that input; None for the only one.
            result: what the pipeline gave.

        Returns:
            The file's path relative to the folder.

        Raises:
            CannotSave: the disk is full, or the folder cannot be written.
            TypeError: the result is of a kind that has no file format here.
        """
        suffix, write = choose_format(result)
        output = name + ("" if page is None else "_%d" % page) + suffix
        below, slash, _ = output.rpartition("/")
        partial = "%s/%s%s%s%d-%d%s" % (
            *(self._folder, below, slash, PARTIAL),
            *(os.getpid(), next(self._numbers), suffix),
        )
        path = "%s/%s" % (self._folder, output)
        try:
            self._make_folder(below)
            write(partial)
            os.replace(partial, path)
        except OSError as error:
            self._drop(partial)
            if error.errno in _ERRNOS_OF_DISKS:
                raise CannotSave("%s could not be written: %s" % (path, error.strerror)) from error
            raise
        except BaseException:
            self._drop(partial)
            raise
        return output

    def remove(self, outputs: List[str]) -> None:
        """Take files away that belong to a batch that has failed."""
        for output in outputs:
            self._drop(os.path.join(self._folder, output))

    def _make_folder(self, folder: str) -> None:
        if folder not in self._made:
            os.makedirs(os.path.join(self._folder, folder), exist_ok=True)
            self._made.add(folder)

    def _drop(self, path: str) -> None:
        try:
            os.unlink(path)
        except OSError:
            pass  # it was not written


def choose_format(result: Any) -> Tuple[str, Callable[[str], None]]:
    """Return the suffix for a result, and what writes it to a path.

    Raises:
        TypeError: there is none for its type.
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
    return ".json", lambda path: _write(path, _JSON.write(result))


def _write(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        written = file.write(data)
        while written < len(data):
            written += file.write(data[written:])


def _write_arrays(path: str, arrays: Dict[Any, Any]) -> None:
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError("array %r holds Python objects, which .npz files do not; return numbers" % name)
    np.savez(path, **{str(name): array for name, array in arrays.items()})
