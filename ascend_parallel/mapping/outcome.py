"""How it went with one file."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Outcome"]


class Outcome(NamedTuple):
    """How it went with one file.

    Attributes:
        file: its name: relative, with sub-folders and suffix.
        path: what the pipeline was given.
        ok: whether all its results are there.
        error: why not, in a sentence; "" where they are.
        seconds: what it took in the pipeline, saving included; a batch's time is shared out evenly.
        device: where it ran.
        outputs: the files that were written, relative to the output folder.
        results: what the pipeline gave for it, where results are handed back: one, or one a page.
    """

    file: str
    path: str
    ok: bool
    error: str = ""
    seconds: float = 0.0
    device: str = ""
    outputs: tuple[str, ...] = ()
    results: tuple[Any, ...] = ()

    @property
    def result(self) -> Any:
        """The only result; a list where there are several."""
        return self.results[0] if len(self.results) == 1 else list(self.results)
