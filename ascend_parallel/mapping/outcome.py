"""The outcome of one file."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Outcome"]


class Outcome(NamedTuple):
    """The outcome of one file.

    Attributes:
        file: the file's name: relative, with sub-folders and suffix.
        path: the path that the pipeline got.
        ok: whether the file was processed and all its results are saved or returned.
        error: the reason of the failure, in one sentence; "" if ``ok``.
        seconds: the time in the pipeline, including saving; a batch's time is divided evenly among its files.
        device: the device that processed the file.
        outputs: the files written, relative to the output folder.
        results: the results of the pipeline, if results are returned: one, or one per page.
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
        """The result, if there is exactly one; else the list of results."""
        return self.results[0] if len(self.results) == 1 else list(self.results)
