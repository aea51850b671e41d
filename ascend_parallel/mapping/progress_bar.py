"""The progress bar for terminals; a separate module because the import of rich is slow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from .counts import RunCounts
from .progress_view import ProgressView

__all__ = ["ProgressBar"]

_REFRESHES_PER_S = 4


class ProgressBar(ProgressView):
    """A progress bar on the terminal; the workers' output appears above it."""

    def __init__(self, counts: RunCounts) -> None:
        super().__init__(counts)
        self._progress = _Bar(
            counts,
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _CountsColumn(counts),
            console=Console(stderr=True, markup=False, highlight=False),
            refresh_per_second=_REFRESHES_PER_S,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("files", total=counts.total, completed=counts.before)

    def __enter__(self) -> ProgressView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        self._progress.stop()

    def update(self) -> None:
        """Update the bar."""
        self._progress.update(self._task, completed=self._counts.before + self._counts.dealt_with)


class _CountsColumn(ProgressColumn):
    def __init__(self, counts: RunCounts) -> None:
        super().__init__()
        self._counts = counts

    def render(self, task: Task) -> Text:
        return Text(self._counts.describe(), style="red" if self._counts.failed else "")


class _Bar(Progress):
    """A bar, with the number of files per device below it."""

    def __init__(self, counts: RunCounts, *columns: ProgressColumn, **options: Any) -> None:
        self._counts = counts
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self._counts.of_device:
            yield Text(self._counts.describe_devices(), style="dim")
