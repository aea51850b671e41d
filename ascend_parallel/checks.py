"""Checks of arguments, shared by the command line, the Python API and configuration files.

Each check takes the argument's name, as the error message shows it (``chunk_size``, ``--output``), and its value. If
the value is invalid, it raises UsageError with the name, the value and what was expected. The ``read_`` and ``find_``
functions return the parsed value; the others return nothing.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from ascend_parallel.errors import UsageError

__all__ = [
    "check_bool",
    "check_file",
    "check_folder",
    "check_installed",
    "check_may_be_made",
    "check_numbers",
    "check_one_of",
    "check_path",
    "check_seconds",
    "check_type",
    "check_whole_number",
    "check_whole_numbers",
    "check_writable",
    "find_python",
    "read_numbers",
    "read_whole_numbers",
]

#: A path in Python code.
AnyPath = str | os.PathLike[str]


# ---- plain values


def refuse(name: str, value: object, expected: str) -> NoReturn:
    """Raise UsageError for an invalid value."""
    raise UsageError(f"{name} is {value!r}; expected {expected}")


def check_type(name: str, value: object, types: type | tuple[type, ...], expected: str) -> None:
    """Check that a value has one of these types; ``expected`` describes them in the error message."""
    if not isinstance(value, types):
        refuse(name, value, expected)


def check_bool(name: str, value: object) -> None:
    """Check that a value is True or False."""
    check_type(name, value, bool, "True or False")


def check_one_of(name: str, value: object, allowed: Iterable[object], expected: str = "") -> None:
    """Check that a value is one of these; the error message has ``expected``, or a list of the allowed values."""
    values = list(allowed)
    if value not in values:
        refuse(name, value, expected or " or ".join(map(str, values)))


# ---- numbers


def check_whole_number(name: str, value: object, at_least: int, what: str = "a whole number") -> None:
    """Check that a value is an int, not a bool, and at least ``at_least``; ``what`` describes the number."""
    if type(value) is not int or value < at_least:
        refuse(name, value, f"{what}, at least {at_least}")


def check_whole_numbers(name: str, values: Sequence[object], at_least: int) -> None:
    """Check that there is at least one number, and that each is an int, not a bool, and at least ``at_least``."""
    if not values or not all(type(value) is int and value >= at_least for value in values):
        refuse(name, list(values), f"whole numbers, at least {at_least}")


def check_numbers(name: str, values: Sequence[float], above: float, at_most: float) -> None:
    """Check that there is at least one number, and that each is greater than ``above`` and at most ``at_most``."""
    if not values or not all(above < value <= at_most for value in values):
        refuse(name, list(values), f"numbers from above {above:g} to {at_most:g}")


def check_seconds(name: str, value: object, *, may_be_endless: bool = True) -> None:
    """Check that a value is a time in seconds, more than 0; infinity is valid unless ``may_be_endless`` is False."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not value > 0 or (value == math.inf and not may_be_endless):  # type: ignore[operator]
        refuse(name, value, "seconds, more than 0")


def read_whole_numbers(name: str, text: str, at_least: int) -> list[int]:
    """Parse ``"1,2,4"``; duplicates are removed, and the order is kept."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) >= at_least for word in words):
        refuse(name, text, f"whole numbers, at least {at_least}, such as 1,2,4")
    return list(dict.fromkeys(map(int, words)))


def read_numbers(name: str, text: str, example: str) -> list[float]:
    """Parse comma-separated numbers, remove duplicates and sort them; the error message shows the example."""
    try:
        return sorted({float(word) for word in text.split(",")})
    except ValueError:
        refuse(name, text, f"numbers such as {example}")


# ---- files and programs


def check_path(name: str, value: object, what: str) -> None:
    """Check that a value is a path, as a string or an object; ``what`` is what it should lead to."""
    check_type(name, value, (str, os.PathLike), f"the path of {what}")


def check_file(what: str, path: AnyPath, tail: str = "") -> None:
    """Check that a file exists.

    Args:
        what: the kind of file, such as ``"model file"``; or the option that names it, such as ``"--config-file"``.
        path: the file.
        tail: the end of the error message, such as what was expected.
    """
    if not os.path.isfile(path):
        _refuse_missing(what, "file", path, tail)


def check_folder(what: str, path: AnyPath) -> None:
    """Check that a folder exists; ``what`` is as in :func:`check_file`."""
    if not os.path.isdir(path):
        _refuse_missing(what, "folder", path, "")


def _refuse_missing(what: str, kind: str, path: AnyPath, tail: str) -> NoReturn:
    is_option = what.startswith("--")
    path = os.fspath(path)
    problem = f"{what} {path}: there is no such {kind}" if is_option else f"there is no {what} {path}"
    raise UsageError(f"{problem} (in {Path.cwd()}){tail}")


def check_writable(what: str, path: Path, suffixes: Sequence[str]) -> None:
    """Check that a file can be written.

    Args:
        what: the name of the option, for the error text, such as ``"--plot"``.
        path: the file to write; its folder must exist.
        suffixes: the accepted suffixes, such as ``[".png", ".svg"]``.
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


def check_may_be_made(what: str, folder: Path) -> None:
    """Check that a folder can be written to, or created with its parents; a full disk is not detected."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UsageError(f"{what} {folder} cannot be created: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{what} {folder} cannot be written to: check the permissions of {existing}")


def check_installed(what: str, module: str, install: str) -> None:
    """Check that this interpreter has a module that ``what`` needs; ``install`` is the command that installs it."""
    if importlib.util.find_spec(module) is None:
        raise UsageError(f"{what} needs {module}: {install}")


def find_python(worker_python: AnyPath | None) -> str:
    """Return the absolute path of the workers' interpreter: None is this one, a name is looked up on PATH.

    Symbolic links are not resolved, because the target of a venv's link is outside the venv.
    """
    if worker_python is None:
        return sys.executable
    check_path("worker_python", worker_python, "a Python interpreter")
    path = shutil.which(os.fspath(worker_python))
    if path is None:
        raise UsageError(
            f"worker_python={os.fspath(worker_python)!r} is not an executable; expected a Python interpreter, such as "
            "/path/to/venv/bin/python"
        )
    return os.path.abspath(path)  # the working directory may change before a worker is restarted
