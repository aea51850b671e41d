"""Engines from outside, as the master sees them: their class, loaded and checked before anything is started."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ascend_parallel.devices import DEVICE_TYPES
from ascend_parallel.errors import UsageError
from ascend_parallel.worker.engines import Engine, find_engine

__all__ = ["is_outside_engine", "load_outside_engine"]

_FLAGS = ("can_share", "may_run_in_threads", "needs_instances", "spreads_over_cores")


def is_outside_engine(name: str) -> bool:
    """Whether an engine's name is of the form ``package.module:EngineClass`` or ``path/to/file.py:EngineClass``."""
    source, _, class_name = name.rpartition(":")
    return bool(source) and all(part.isidentifier() for part in class_name.split("."))


def load_outside_engine(name: str, import_path: Sequence[str]) -> type[Engine]:
    """Return the class of an engine from outside; its name is what the user calls it, with a file's whole path.

    Args:
        name: ``package.module:EngineClass`` or ``path/to/file.py:EngineClass``.
        import_path: where its module is looked for after ``sys.path``, as workers do.

    Raises:
        UsageError: it cannot be imported here, is no subclass of :class:`ascend_parallel.Engine`, or an attribute of
            the class is not what it must be.
    """
    source, _, class_name = name.rpartition(":")
    try:
        if source.endswith(".py"):
            path = os.path.abspath(source)
            engine = _load_file(f"{path}:{class_name}", Path(path).stat().st_mtime_ns if os.path.exists(path) else 0)
        else:
            with _searching(import_path):
                engine = find_engine(name)
    except (ImportError, TypeError) as error:
        raise UsageError(str(error)) from error
    _check_attributes(engine)
    return engine


@functools.lru_cache(maxsize=64)
def _load_file(name: str, _changed_ns: int) -> type[Engine]:
    """Load a class from a file, once a change of it: what is at the top of a file is not run for each runner."""
    return find_engine(name)


@contextmanager
def _searching(import_path: Sequence[str]) -> Iterator[None]:
    """Look for modules where a worker would, too: in the working directory, which is not on the path of a command."""
    added = [path for path in import_path if path not in sys.path]
    sys.path.extend(added)
    importlib.invalidate_caches()  # the module may have been written just now
    try:
        yield
    finally:
        for path in added:
            with suppress(ValueError):  # the module has removed it itself
                sys.path.remove(path)


def _check_attributes(engine: type[Engine]) -> None:
    """Refuse class attributes that would mislead the checks of the user's arguments; raises UsageError."""
    suffixes, device_types, options = engine.suffixes, engine.device_types, engine.options
    if not isinstance(suffixes, tuple) or not all(isinstance(s, str) and s[:1] == "." and s[1:] for s in suffixes):
        _refuse(engine, "suffixes", 'a tuple such as (".bin",)')
    if not isinstance(device_types, tuple) or not device_types or not set(device_types) <= set(DEVICE_TYPES):
        _refuse(engine, "device_types", f"a tuple of some of {', '.join(DEVICE_TYPES)}")
    if options is not None and not (isinstance(options, dict) and all(map(_is_option, options.items()))):
        _refuse(engine, "options", 'a dict of option -> tuple of types, such as {"scale": (int, float)}, or None')
    for flag in _FLAGS:
        if not isinstance(getattr(engine, flag), bool):
            _refuse(engine, flag, "True or False")


def _is_option(item: tuple[object, object]) -> bool:
    name, types = item
    return (
        isinstance(name, str) and isinstance(types, tuple) and bool(types) and all(isinstance(t, type) for t in types)
    )


def _refuse(engine: type[Engine], attribute: str, expected: str) -> None:
    value = getattr(engine, attribute)
    raise UsageError(f"the engine {engine.name} has the attribute {attribute} = {value!r}; expected {expected}")
