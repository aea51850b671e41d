"""The pipelines of benchmarks/map.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: About 5 ms of one core per file.
_STEPS = 250_000


def trivial(device: str) -> Callable[[list[str]], list[dict[str, Any]]]:
    """Return a pipeline that returns the length of each path."""
    return lambda paths: [{"input_path": path, "length": len(path)} for path in paths]


def compute(device: str) -> Callable[[list[str]], list[dict[str, Any]]]:
    """Return a pipeline that keeps one core busy for the same number of steps per path."""
    return lambda paths: [{"input_path": path, "sum": sum(range(_STEPS))} for path in paths]
