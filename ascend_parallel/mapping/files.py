"""Which files are to be mapped, and what their outputs are called."""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ascend_parallel.checks import check_folder
from ascend_parallel.errors import DiskError, UsageError

__all__ = ["File", "list_folder", "name_files", "read_list"]

#: Longest sample of names in a message.
_SHOWN = 3


class File(NamedTuple):
    """One file to be mapped.

    Attributes:
        path: what the pipeline is given.
        name: what the manifest calls it, and what its outputs' names begin with: relative, with sub-folders and suffix.
    """

    path: str
    name: str


def list_folder(
    folder: str | os.PathLike[str],
    pattern: str = "*",
    *,
    recursive: bool = False,
    leave_out: str | os.PathLike[str] | None = None,
) -> list[File]:
    """Return the files of a folder, sorted by name.

    Args:
        folder: the folder.
        pattern: such as ``"*.jpg"``: of names, not of paths. As in a shell, ``*`` leaves hidden files out.
        recursive: those in its sub-folders, too.
        leave_out: a folder inside that is not looked into: the one for the outputs.

    Raises:
        UsageError: there is no such folder, or nothing in it matches.
    """
    root = os.fspath(folder)
    check_folder("folder", root)
    if "/" in pattern:
        raise UsageError(f"the pattern {pattern!r} holds a slash; it is for names, such as '*.jpg': see recursive")
    skipped = os.path.realpath(leave_out) if leave_out is not None else None
    try:
        names = sorted(_walk(root, "", pattern, recursive, skipped))
    except OSError as error:
        raise DiskError(f"{error.filename or root} could not be listed: {error.strerror}") from error
    if not names:
        where = f"{root} and the folders in it" if recursive else root
        hint = "" if recursive else "; those in its sub-folders count with recursive"
        raise UsageError(f"no file in {where} matches {pattern!r}{hint}")
    before = os.path.join(root, "")
    return [File(before + name, name) for name in names]  # half the time of a join for each of millions


def _walk(root: str, below: str, pattern: str, recursive: bool, skipped: str | None) -> Iterator[str]:
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir():
                # Links to folders are not followed: they may lead back to where they are.
                if recursive and not entry.is_symlink() and os.path.realpath(entry.path) != skipped:
                    yield from _walk(root, name, pattern, recursive, skipped)
            elif _matches(entry.name, pattern) and (entry.is_file() or entry.is_symlink()):
                yield name


def _matches(name: str, pattern: str) -> bool:
    if name.startswith(".") and not pattern.startswith("."):
        return False
    return pattern == "*" or fnmatch.fnmatchcase(name, pattern)


def read_list(source: str | os.PathLike[str]) -> list[str]:
    """Return the names that a file lists, one a line, or separated by zero bytes (``find -print0``).

    Args:
        source: the file; ``"-"`` for standard input.

    Raises:
        UsageError: there is no such file, or no name in it.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"the list of files {source} could not be read: {error.strerror}") from None
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    found = [os.fsdecode(name) for name in names if name]
    if not found:
        raise UsageError(f"the list of files {'on standard input' if source == '-' else source} is empty")
    return found


def name_files(paths: Iterable[str | os.PathLike[str]], folder: str | os.PathLike[str] | None = None) -> list[File]:
    """Return files from a list of paths, each once, in the order of the list.

    Args:
        paths: as the pipeline is to be given them.
        folder: what they are relative to, and named by; None: the working directory. Files outside are named by
            their whole path.

    Raises:
        UsageError: a path is no string, or empty.
    """
    files: dict[str, File] = {}
    for path in paths:
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise UsageError(f"{path!r} among the files is no path; expected strings")
        text = os.fsdecode(os.fspath(path))
        whole = text if folder is None else os.path.join(folder, text)
        name = _name_of(text, folder)
        files.setdefault(name, File(whole, name))
    return list(files.values())


def _name_of(path: str, folder: str | os.PathLike[str] | None) -> str:
    name = os.path.normpath(path)
    if name.startswith("/") and folder is not None:
        name = os.path.relpath(name, os.path.abspath(folder))
    if name == ".." or name.startswith("../"):
        name = os.path.abspath(os.path.join(folder or "", path))
    return name.lstrip("/")
