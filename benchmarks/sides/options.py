"""Lists in the command lines of the benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping


def choose(
    parser: argparse.ArgumentParser, option: str, text: str, known: Mapping[str, object], separator: str = ", "
) -> list[str]:
    """Return the names in a comma-separated list; exit with one sentence if one is unknown.

    ``separator`` stands between the known names in that sentence.
    """
    names = text.split(",")
    for name in names:
        if name not in known:
            parser.error(f"{option} names {name!r}; expected some of {separator.join(known)}")
    return names


def read_numbers(parser: argparse.ArgumentParser, option: str, text: str) -> list[int]:
    """Return the numbers in a comma-separated list; exit with one sentence if one is none."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        parser.error(f"{option} is {text!r}; expected numbers such as 1,16,64")
