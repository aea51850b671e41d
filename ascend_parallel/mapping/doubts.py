"""Failures before any file has succeeded: the files may be the cause, or the pipeline may be broken in that process.

After some errors of a device every later call in the same process fails, and a file that was processed before tells
that (see ``BatchRunner``). Before there is such a file, failures are kept back. Workers in which nothing succeeds are
replaced, at first after two failures, then ever more seldom. With the first success, the files in doubt are tried
again. If all files were tried and none has succeeded, they are tried once more, the last ones first: a file that breaks
its process is then among the last. If many have failed, in several processes, the files are believed to be the cause.
"""

from __future__ import annotations

from collections.abc import Mapping

from .outcome import Outcome

__all__ = ["Doubts"]

#: After so many failures without a success, in several processes, they are no longer in doubt.
_MAX_IN_DOUBT = 64
#: A worker is not replaced after its first failure: it takes seconds to start one.
_LEAST_FAILURES = 2


class Doubts:
    """The failures in doubt.

    Attributes:
        fresh_after: after how many failures, without a success, a worker is to be replaced.
    """

    def __init__(self) -> None:
        self.fresh_after = _LEAST_FAILURES
        self._failures: dict[int, Outcome] = {}
        self._had_second_round = False
        self._is_over = False

    @property
    def are_too_many(self) -> bool:
        """Whether so many files have failed that they are believed to be the cause."""
        return len(self._failures) >= _MAX_IN_DOUBT

    def hold(self, position: int, failure: Outcome, *, is_certain: bool) -> bool:
        """Keep a failure back; return False if it is certain.

        Args:
            position: the index of the file.
            failure: its outcome.
            is_certain: whether something succeeded in that worker, too.
        """
        if is_certain or self._is_over:
            return False
        self._failures[position] = failure
        self.fresh_after = max(self.fresh_after, len(self._failures))
        return True

    def take_positions(self) -> list[int]:
        """Return the files in doubt, which are tried again now that there is a known good file."""
        return list(self.take())

    def take_for_second_round(self) -> list[int]:
        """Return the files in doubt, the last ones first, to be tried once more; [] if they were, or it is only one."""
        if self._had_second_round or len(self._failures) < _LEAST_FAILURES or self.are_too_many:
            return []
        self._had_second_round = True
        self.fresh_after = _LEAST_FAILURES
        positions = sorted(self._failures, reverse=True)
        self._failures.clear()
        return positions

    def take(self) -> Mapping[int, Outcome]:
        """Return the failures in doubt, and have doubts no longer if they are too many."""
        self._is_over = self._is_over or self.are_too_many
        failures, self._failures = self._failures, {}
        return failures
