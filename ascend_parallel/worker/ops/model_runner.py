"""Runs the model of an op on the feeds of several requests: together where they agree, else one by one."""

from __future__ import annotations

from typing import Any, Dict, Hashable, List, Optional, Sequence, Tuple, Union

import numpy as np

from ..engines.base import Arrays, Engine, EngineBroken
from .failures import WrongAnswer
from .feeds import Feed, FeedReader, can_split
from .padding import PadRule

#: How far a floating-point output may be from itself in another batch, in parts of the largest number; float16 has
#: three digits.
_TOLERANCE = 1e-2
#: The outputs of a feed, or what was raised instead.
Outcome = Union[Arrays, Exception]


class CannotSplit(WrongAnswer):
    """The outputs of a model have other rows than its inputs, but were to be split."""


class ModelRunner:
    """A model, run on feeds.

    Feeds with the same names, dtypes and row shapes are run together. Their rows are cut into runs of at most
    ``max_batch_size``, or of just as many as the model takes at a time; then the last run is filled up with its last
    row. The outputs are split by rows. A model with an output that has other than the rows' size along axis 0
    runs one feed at a time from then on. If a run of several feeds raises, each is tried alone.

    The size of an output, such as the number of all objects found, can be that of the rows by chance. So, where the
    model's specs do not tell that the outputs have rows, the first feeds that are run together are run alone, too; they
    are run together from then on if that made no difference.
    """

    def __init__(
        self, engine: Engine, max_batch_size: Optional[int], pad: Dict[str, Dict[str, Any]], casting: str = "same_kind"
    ) -> None:
        """Take the model's engine.

        Args:
            engine: the engine.
            max_batch_size: the most rows of one run; None: any number.
            pad: input name -> pad rule, see :mod:`.padding`.
            casting: which conversions to the model's dtypes are allowed, in :func:`numpy.can_cast`'s words.
        """
        self._engine = engine
        self._reader = FeedReader(engine.inputs, {name: PadRule(name, rule) for name, rule in pad.items()}, casting)
        self._run_rows = self._reader.fixed_rows or max_batch_size
        self._can_join = can_split(engine.inputs, engine.outputs)

    @property
    def input_names(self) -> Optional[List[str]]:
        """The names of the model's inputs; None where it does not tell them."""
        return None if self._engine.inputs is None else [spec.name for spec in self._engine.inputs]

    def read(self, given: Dict[str, Any]) -> Feed:
        """Return the feed of a dict of input name -> array; raises WrongValue where it does not fit the model."""
        return self._reader.read(given)

    def run(self, feeds: Sequence[Feed]) -> List[Outcome]:
        """Return what came of each feed. The arrays are copies of the engine's.

        Raises:
            EngineBroken: the engine can compute nothing any more.
        """
        groups: Dict[Hashable, List[int]] = {}
        for position, feed in enumerate(feeds):
            groups.setdefault(feed.key, []).append(position)
        outcomes: List[Outcome] = [{}] * len(feeds)
        for positions in groups.values():
            found = self._run_group([feeds[position] for position in positions])
            for position, outcome in zip(positions, found):
                outcomes[position] = outcome
        return outcomes

    def _run_group(self, feeds: List[Feed]) -> List[Outcome]:
        if len(feeds) > 1 and self._can_join is not False and self._reader.holds_rows(feeds[0]):
            try:
                return self._run_together(feeds)
            except EngineBroken:
                raise
            except CannotSplit:
                self._can_join = False
            except Exception:
                pass  # who is to blame is seen below
        return [self._run_alone(feed, self._pad([feed])[0]) for feed in feeds]

    def _run_alone(self, feed: Feed, arrays: List[np.ndarray]) -> Outcome:
        try:
            return self._compute(feed.names, arrays, feed.rows)
        except EngineBroken:
            raise
        except Exception as error:
            return error

    def _run_together(self, feeds: List[Feed]) -> List[Outcome]:
        padded = self._pad(feeds)
        names = feeds[0].names
        arrays = [
            np.concatenate(parts) if self._reader.has_rows(name, parts[0]) else parts[0]
            for name, parts in zip(names, zip(*padded))
        ]
        rows = sum(feed.rows for feed in feeds)
        outputs = self._compute(names, arrays, rows)
        reason = why_not_split(outputs, rows)
        if reason:
            raise CannotSplit(reason)
        outcomes: List[Outcome] = []
        start = 0
        for feed in feeds:
            stop = start + feed.rows
            outcomes.append({name: array[start:stop] for name, array in outputs.items()})
            start = stop
        return outcomes if self._can_join else self._compare_alone(feeds, padded, outcomes)

    def _compare_alone(
        self, feeds: List[Feed], padded: List[List[np.ndarray]], together: List[Outcome]
    ) -> List[Outcome]:
        """Note whether feeds that are run alone have the same outputs; return what came of them so."""
        alone = [self._run_alone(feed, arrays) for feed, arrays in zip(feeds, padded)]
        self._can_join = all(look_alike(one, other) for one, other in zip(together, alone))
        return alone

    def _pad(self, feeds: List[Feed]) -> List[List[np.ndarray]]:
        """Return the arrays of each feed, padded to the longest where a rule says so."""
        arrays = [list(feed.arrays) for feed in feeds]
        for position, name in enumerate(feeds[0].names):
            rule = self._reader.rule_to_longest(name)
            if rule is not None:
                for own, padded in zip(arrays, rule.pad_to_longest([own[position] for own in arrays])):
                    own[position] = padded
        return arrays

    def _compute(self, names: Sequence[str], arrays: Sequence[np.ndarray], rows: int) -> Arrays:
        """Return the outputs of so many rows, computed in as many runs as it takes."""
        size = self._run_rows or max(rows, 1)
        fed = size if self._reader.fixed_rows else min(size, max(rows, 1))
        if rows == fed:
            return self._predict(names, arrays)
        starts = range(0, max(rows, 1), size)
        parts = [self._compute_part(names, arrays, start, min(start + size, rows)) for start in starts]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _compute_part(self, names: Sequence[str], arrays: Sequence[np.ndarray], start: int, stop: int) -> Arrays:
        """Return the outputs of some rows, without those of the padding."""
        fed = self._reader.fixed_rows or max(stop - start, 1)
        given = [
            fill_rows(array[start:stop], fed) if self._reader.has_rows(name, array) else array
            for name, array in zip(names, arrays)
        ]
        outputs = self._predict(names, given)
        reason = why_not_split(outputs, fed)
        if reason:
            raise CannotSplit(reason + ", so rows cannot be run in several steps, or be filled up: " + self._advise())
        return {name: array[: stop - start] for name, array in outputs.items()}

    def _advise(self) -> str:
        if self._reader.fixed_rows:
            return "give it just %d rows at a time" % self._reader.fixed_rows
        return "raise max_batch_size, or return mini-batches"

    def _predict(self, names: Sequence[str], arrays: Sequence[np.ndarray]) -> Arrays:
        outputs = self._engine.predict(list(names), [np.ascontiguousarray(array) for array in arrays], {})
        return {name: np.array(array) for name, array in outputs.items()}  # the next predict may overwrite the engine's


def fill_rows(array: np.ndarray, rows: int) -> np.ndarray:
    """Return an array with so many rows: its last one is repeated; zeros stand in where it has none."""
    missing = rows - array.shape[0]
    if not missing:
        return array
    last = array[-1:] if array.shape[0] else np.zeros((1,) + array.shape[1:], array.dtype)
    return np.concatenate([array, np.repeat(last, missing, 0)])


def why_not_split(outputs: Arrays, rows: int) -> str:
    """Return why outputs of so many rows cannot be split by rows; "" if they can."""
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            return "the model's output %r has shape %s for %d rows" % (name, array.shape, rows)
    return ""


def look_alike(one: Outcome, other: Outcome) -> bool:
    """Whether outputs are the same, but for what the order of sums makes of floating-point numbers."""
    if isinstance(one, Exception) or isinstance(other, Exception):
        return False
    for name, array in one.items():
        if name not in other or array.shape != other[name].shape:
            return False
        scale = np.abs(np.nan_to_num(array)).max(initial=0) if array.dtype.kind in "fc" else 0
        if not np.allclose(array, other[name], rtol=0, atol=_TOLERANCE * scale, equal_nan=array.dtype.kind in "fc"):
            return False
    return True


def join_outputs(outputs: Sequence[Any]) -> Tuple[str, Arrays]:
    """Return the outputs of mini-batches put together by name; or why they cannot be."""
    for position, part in enumerate(outputs):
        if not isinstance(part, dict):
            return "mini-batch %d gave a %s, not a dict" % (position, type(part).__name__), {}
        if list(part) != list(outputs[0]):
            return "mini-batch %d gave %s, mini-batch 0 %s" % (position, list(part), list(outputs[0])), {}
    try:
        return "", {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}
    except ValueError as error:
        return str(error), {}
