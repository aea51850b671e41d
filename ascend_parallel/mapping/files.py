"""The files to process, and the names that the manifest and the outputs use for them."""

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


class File(NamedTuple):
    """One file to process.

    Attributes:
        path: the path that the pipeline gets.
        name: the name in the manifest, and the start of the outputs' names: relative, with sub-folders and suffix.
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
        pattern: a pattern for names (not paths), such as ``"*.jpg"``. As in a shell, ``*`` does not match hidden files.
        recursive: whether to include the files in sub-folders.
        leave_out: a sub-folder to skip: the output folder.

    Raises:
        UsageError: if the folder does not exist, or no file matches.
    """
    root = os.fspath(folder)
    check_folder("folder", root)
    if "/" in pattern:
        raise UsageError(f"the pattern {pattern!r} contains a slash; it is for names, such as '*.jpg': see recursive")
    skipped = os.path.realpath(leave_out) if leave_out is not None else None
    try:
        names = sorted(_walk(root, "", pattern, recursive, skipped))
    except OSError as error:
        raise DiskError(f"{error.filename or root} could not be listed: {error.strerror}") from error
    if not names:
        where = f"{root} and the folders in it" if recursive else root
        hint = "" if recursive else "; use recursive to include sub-folders"
        raise UsageError(f"no file in {where} matches {pattern!r}{hint}")
    before = os.path.join(root, "")
    return [File(before + name, name) for name in names]  # twice as fast as os.path.join, for millions of files


def _walk(root: str, below: str, pattern: str, recursive: bool, skipped: str | None) -> Iterator[str]:
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir():
                # Symbolic links to folders are not followed: they may form a cycle.
                if recursive and not entry.is_symlink() and os.path.realpath(entry.path) != skipped:
                    yield from _walk(root, name, pattern, recursive, skipped)
            elif _matches(entry.name, pattern) and (entry.is_file() or entry.is_symlink()):
                yield name


def _matches(name: str, pattern: str) -> bool:
    if name.startswith(".") and not pattern.startswith("."):
        return False
    return pattern == "*" or fnmatch.fnmatchcase(name, pattern)


def read_list(source: str | os.PathLike[str]) -> list[str]:
    """Return the names in a list: one per line, or separated by zero bytes (``find -print0``).

    Args:
        source: the path of the list; ``"-"`` for standard input.

    Raises:
        UsageError: if the list does not exist, or is empty.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"the list of files {source} could not be read: {error.strerror}") from None
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    names_in_list = [os.fsdecode(name) for name in names if name]
    if not names_in_list:
        raise UsageError(f"the list of files {'on standard input' if source == '-' else source} is empty")
    return names_in_list


def name_files(paths: Iterable[str | os.PathLike[str]], folder: str | os.PathLike[str] | None = None) -> list[File]:
    """Return the files of a list of paths, without duplicates, in the order of the list.

    Args:
        paths: the paths that the pipeline gets.
        folder: the folder that paths and names are relative to; None: the working directory. The name of a file outside
            of it is its whole path.

    Raises:
        UsageError: if a path is not a string, or is empty.
    """
    files: dict[str, File] = {}
    for path in paths:
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise UsageError(f"{path!r} in the list of files is not a path; expected strings")
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
