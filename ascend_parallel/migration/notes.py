"""What is to be told of a file that is migrated, each with its line."""

from __future__ import annotations

from typing import NamedTuple

from ascend_parallel.serving.yaml_file import Place


class Note(NamedTuple):
    """A sentence about a place in a file.

    Attributes:
        file: the file.
        place: line and column; None: the file as a whole.
        text: what has no counterpart, and what to do.
    """

    file: str
    place: Place | None
    text: str

    def __str__(self) -> str:
        where = "" if self.place is None else f":{self.place.line}:{self.place.column}"
        return f"{self.file}{where}: {self.text}"
