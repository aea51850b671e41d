"""The last lines of a worker in the message of an error: how they are appended, and how they are left out again."""

from __future__ import annotations

from collections.abc import Sequence

_HEAD = "\n  its last lines:"


def quote(lines: Sequence[str]) -> str:
    """Return a worker's last lines, to append to a message; "" where there are none."""
    if not lines:
        return ""
    return f"{_HEAD}\n" + "\n".join(f"  | {line}" for line in lines)


def in_one_line(error: Exception) -> str:
    """Return an error's message in one line, without the worker's last lines, which were printed before."""
    return " ".join(str(error).split(_HEAD)[0].split())
