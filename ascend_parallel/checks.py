"""Checks of arguments, one for all who take them: the command line, the Python API, configuration files.

Each is given an argument's name, as its message is to call it (``chunk_size``, ``--output``), and its value. It raises
UsageError, which names the argument, says what it is and what was expected; else it returns nothing, or what it read.
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

#: A path as Python code gives it.
AnyPath = str | os.PathLike[str]


# ---- plain values


def refuse(name: str, value: object, expected: str) -> NoReturn:
    """Raise UsageError for a value that is not what was expected."""
    raise UsageError(f"{name} is {value!r}; expected {expected}")


def check_type(name: str, value: object, types: type | tuple[type, ...], expected: str) -> None:
    """Check that a value is of one of these types; ``expected`` says so in words."""
    if not isinstance(value, types):
        refuse(name, value, expected)


def check_bool(name: str, value: object) -> None:
    """Check that it is True or False."""
    check_type(name, value, bool, "True or False")


def check_one_of(name: str, value: object, allowed: Iterable[object], expected: str = "") -> None:
    """Check that it is one of these values; ``expected`` says so in words, where listing them does not."""
    values = list(allowed)
    if value not in values:
        refuse(name, value, expected or " or ".join(map(str, values)))


# ---- numbers


def check_whole_number(name: str, value: object, at_least: int, what: str = "a whole number") -> None:
    """Check that it is an int (no bool) and not below ``at_least``; ``what`` is what it counts."""
    if type(value) is not int or value < at_least:
        refuse(name, value, f"{what}, at least {at_least}")


def check_whole_numbers(name: str, values: Sequence[object], at_least: int) -> None:
    """Check that it holds at least one number, and each is an int (no bool) and not below ``at_least``."""
    if not values or not all(type(value) is int and value >= at_least for value in values):
        refuse(name, list(values), f"whole numbers, at least {at_least}")


def check_numbers(name: str, values: Sequence[float], above: float, at_most: float) -> None:
    """Check that it holds at least one number, and each is greater than ``above`` and not greater than ``at_most``."""
    if not values or not all(above < value <= at_most for value in values):
        refuse(name, list(values), f"numbers from above {above:g} to {at_most:g}")


def check_seconds(name: str, value: object, *, may_be_endless: bool = True) -> None:
    """Check that it is a time in seconds, more than 0; infinity is one, unless ``may_be_endless`` is False."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not value > 0 or (value == math.inf and not may_be_endless):  # type: ignore[operator]
        refuse(name, value, "seconds, more than 0")


def read_whole_numbers(name: str, text: str, at_least: int) -> list[int]:
    """Read ``"1,2,4"``, each number once, in the order of the text."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) >= at_least for word in words):
        refuse(name, text, f"whole numbers, at least {at_least}, such as 1,2,4")
    return list(dict.fromkeys(map(int, words)))


def read_numbers(name: str, text: str, example: str) -> list[float]:
    """Read numbers that commas separate, each once, in rising order; the message shows the example."""
    try:
        return sorted({float(word) for word in text.split(",")})
    except ValueError:
        refuse(name, text, f"numbers such as {example}")


# ---- files and programs


def check_path(name: str, value: object, what: str) -> None:
    """Check that it is a path, of text or as an object; ``what`` says of what."""
    check_type(name, value, (str, os.PathLike), f"the path of {what}")


def check_file(what: str, path: AnyPath, tail: str = "") -> None:
    """Check that a file is there.

    Args:
        what: what it is, such as ``"model file"``; or the option that names it, such as ``"--config-file"``.
        path: where it is to be.
        tail: what the message ends with, such as what is expected there.
    """
    if not os.path.isfile(path):
        _refuse_missing(what, "file", path, tail)


def check_folder(what: str, path: AnyPath) -> None:
    """Check that a folder is there; ``what`` as in :func:`check_file`."""
    if not os.path.isdir(path):
        _refuse_missing(what, "folder", path, "")


def _refuse_missing(what: str, kind: str, path: AnyPath, tail: str) -> NoReturn:
    told = f"{what} {os.fspath(path)}: there is no such {kind}" if what.startswith("--") else ""
    raise UsageError(f"{told or f'there is no {what} {os.fspath(path)}'} (in {Path.cwd()}){tail}")


def check_writable(what: str, path: Path, suffixes: Sequence[str]) -> None:
    """Check that a file can be written in a folder that is there.

    Args:
        what: the option that names it, such as ``"--plot"``.
        path: where it is to be.
        suffixes: those that it may have, such as ``[".png", ".svg"]``.
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
    """Check that a folder can be written to, or made with those above it; a full disk is not foreseen."""
    above = folder
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise UsageError(f"{what} {folder} cannot be made: {above} is not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"{what} {folder} cannot be written to: check the permissions of {above}")


def check_installed(what: str, module: str, install: str) -> None:
    """Check that a module is installed here, which ``what`` needs; ``install`` is the command that installs it."""
    if importlib.util.find_spec(module) is None:
        raise UsageError(f"{what} needs {module}: {install}")


def find_python(worker_python: AnyPath | None) -> str:
    """Return the absolute path of the workers' interpreter: None is this one, a name is looked for on PATH.

    A link is not resolved, as that would leave a venv.
    """
    if worker_python is None:
        return sys.executable
    check_path("worker_python", worker_python, "a Python interpreter")
    found = shutil.which(os.fspath(worker_python))
    if found is None:
        raise UsageError(
            f"worker_python={os.fspath(worker_python)!r} is not an executable; expected a Python interpreter, such as "
            "/path/to/venv/bin/python"
        )
    return os.path.abspath(found)  # a restart may come after a chdir
