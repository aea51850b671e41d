"""The bar that a terminal shows; in a file of its own, as rich takes a while to import."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from .progress import Tally, View

__all__ = ["BarView"]

_REFRESHES_PER_S = 4


class BarView(View):
    """A bar on the terminal; what workers print appears above it."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self._progress = _Bar(
            tally,
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Words(tally),
            console=Console(stderr=True, markup=False, highlight=False),
            refresh_per_second=_REFRESHES_PER_S,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("files", total=tally.total, completed=tally.before)

    def __enter__(self) -> View:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        self._progress.stop()

    def update(self) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=self._tally.before + self._tally.dealt_with)


class _Words(ProgressColumn):
    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def render(self, task: Task) -> Text:
        return Text(self._tally.describe(), style="red" if self._tally.failed else "")


class _Bar(Progress):
    """A bar, and under it what each device has done."""

    def __init__(self, tally: Tally, *columns: ProgressColumn, **options: Any) -> None:
        self._tally = tally
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self._tally.of_device:
            yield Text(self._tally.describe_devices(), style="dim")
