"""Fit a table of settings and figures to a terminal's width; all figures stay readable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

__all__ = ["fit"]

#: Spaces between two columns, if there is enough room and if there is not.
_WIDE_GAP, _NARROW_GAP = 2, 1


def fit(width: int, titles: Sequence[str], lines: Sequence[Sequence[str]], names: int) -> tuple[str, list[Table]]:
    """Arrange lines of text in a table, or in several tables if one is too wide.

    If the table is too wide, settings that are equal in all lines are removed from it, and the columns move closer
    together. If that is not enough, the figures are divided into several tables; each repeats the settings that differ.
    Only a column that is wider than the terminal is folded.

    Args:
        width: the width of the terminal, in columns.
        titles: the titles of the columns; a title may have several lines.
        lines: the rows, at least one; each has one text per title.
        names: the number of columns with settings, which come first; the other columns are figures.

    Returns:
        The settings that were removed because they are equal in all lines ("" if there are none), and the tables.
    """
    widths = [_width(title, [line[i] for line in lines]) for i, title in enumerate(titles)]
    everything = range(len(titles))
    if _total(widths, everything, _WIDE_GAP) <= width:
        return "", [_table(titles, lines, everything, _WIDE_GAP)]
    varying = [i for i in range(names) if len({line[i] for line in lines}) > 1] or [0]
    same = ", ".join(f"{_in_a_line(titles[i])} {lines[0][i]}" for i in range(names) if i not in varying)
    figures = range(names, len(titles))
    for gap in (_WIDE_GAP, _NARROW_GAP):
        if _total(widths, [*varying, *figures], gap) <= width:
            return same, [_table(titles, lines, [*varying, *figures], gap)]
    groups = _groups(width, widths, varying, figures)
    return same, [_table(titles, lines, [*varying, *group], _WIDE_GAP) for group in groups]


def _groups(width: int, widths: Sequence[int], names: Sequence[int], figures: Sequence[int]) -> Iterator[list[int]]:
    """Yield groups of figures that fit beside the names; each has at least one figure."""
    group: list[int] = []
    for i in figures:
        if group and _total(widths, [*names, *group, i], _WIDE_GAP) > width:
            yield group
            group = []
        group.append(i)
    yield group


def _width(title: str, texts: Sequence[str]) -> int:
    return max(len(text) for text in (*title.split("\n"), *texts))


def _total(widths: Sequence[int], columns: Sequence[int], gap: int) -> int:
    return sum(widths[i] for i in columns) + gap * (len(columns) - 1)


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]], columns: Sequence[int], gap: int) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    for i in columns:
        table.add_column(titles[i], justify="right", vertical="bottom", overflow="fold")
    for line in lines:
        table.add_row(*(line[i] for i in columns))
    return table


def _in_a_line(title: str) -> str:
    return title.replace("\n", " ")
