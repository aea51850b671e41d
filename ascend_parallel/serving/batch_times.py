"""How long the engine takes for a batch, by its rows: what it takes for any batch, and what each row adds."""

from __future__ import annotations

#: The shortest time of each size is remembered, as other work of the machine only lengthens it. It is forgotten by so
#: much with each batch, so that a device that has become slower is known as such after some hundred batches.
_FORGETTING = 1.01
#: A size counts after so many batches: the first are slow in many engines, which prepare themselves for new shapes.
_MIN_BATCHES = 4


class BatchTimes:
    """The times of one model's batches.

    Attributes:
        fixed_s: what any batch takes, however few its rows; inf before batches of two sizes were seen.
        row_s: what each row adds; 0 before.
        last_rows: rows of the last batch.
    """

    def __init__(self) -> None:
        self.fixed_s = float("inf")
        self.row_s = 0.0
        self.last_rows = 0
        self._counts: dict[int, int] = {}
        self._shortest_s: dict[int, float] = {}
        self._fewest = self._most = 0  # the sizes that count

    def note(self, rows: int, seconds: float) -> None:
        """Take how long a batch took."""
        self.last_rows = rows
        shortest_s = self._shortest_s
        shortest_s[rows] = min(seconds, shortest_s.get(rows, seconds) * _FORGETTING)
        self._counts[rows] = count = self._counts.get(rows, 0) + 1
        if count == _MIN_BATCHES:
            self._fewest = min(rows, self._fewest or rows)
            self._most = max(rows, self._most)
        if self._fewest < self._most:
            least_s = shortest_s[self._fewest]
            self.row_s = max(0.0, (shortest_s[self._most] - least_s) / (self._most - self._fewest))
            self.fixed_s = max(0.0, least_s - self._fewest * self.row_s)

    def expect_s(self, rows: int) -> float:
        """Return how long a batch will take; inf where that is not known."""
        return self.fixed_s + rows * self.row_s
