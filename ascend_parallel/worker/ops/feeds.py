"""What the model of an op is fed with: arrays checked against the model's inputs, and what can be run together."""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections import Counter
from typing import Any, Dict, FrozenSet, Hashable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..engines.base import TensorSpec
from .failures import WrongValue
from .padding import PadRule

#: An input that all rows share is compared by its bytes, or by their hash where it is larger.
_COMPARED_BYTES = 1024
_NUMBERS = "biufc"


class Feed(NamedTuple):
    """The inputs of one run of the model.

    Attributes:
        names: of the inputs, in the model's order.
        arrays: the inputs, with the model's dtypes.
        rows: how many rows there are along axis 0; 1 where no input has rows.
        key: what is equal for feeds that can be run together.
    """

    names: Tuple[str, ...]
    arrays: List[np.ndarray]
    rows: int
    key: Hashable


class FeedReader:
    """Makes feeds of what ``preprocess`` returns.

    Attributes:
        fixed_rows: rows that the model takes at a time; None where it takes any number.
    """

    def __init__(self, specs: Optional[Sequence[TensorSpec]], rules: Dict[str, PadRule], casting: str) -> None:
        """Take the model's inputs, None where it does not tell them.

        Args:
            specs: the inputs.
            rules: pad rules, by the name of the input.
            casting: which conversions to the model's dtypes are allowed, in :func:`numpy.can_cast`'s words.
        """
        self._rules = rules
        self._specs = None if specs is None else {spec.name: spec for spec in specs}
        self._casting = casting
        self._whole, self.fixed_rows = _find_rows(specs or ())

    def read(self, given: Any) -> Feed:
        """Return the feed of a dict of input name -> array; raises WrongValue where it does not fit the model."""
        names = self._order(given)
        arrays = [self._read_input(name, given[name]) for name in names]
        rows = self._agree_on_rows(names, arrays)
        key = (names, tuple([self._key_of(name, array) for name, array in zip(names, arrays)]))
        return Feed(names, arrays, rows, key)

    def holds_rows(self, feed: Feed) -> bool:
        """Whether any input of a feed holds rows."""
        return any(self.has_rows(name, array) for name, array in zip(feed.names, feed.arrays))

    def has_rows(self, name: str, array: np.ndarray) -> bool:
        """Whether an input holds rows; other inputs are the same for all rows."""
        return array.ndim > 0 and name not in self._whole

    def rule_to_longest(self, name: str) -> Optional[PadRule]:
        """Return the rule that pads an input to the longest of those that are run together; None without one."""
        rule = self._rules.get(name)
        return rule if rule is not None and rule.buckets is None else None

    def _order(self, given: Dict[str, Any]) -> Tuple[str, ...]:
        """Return the names of the inputs in the model's order."""
        if self._specs is None:
            return tuple(given)
        for name in given:
            if name not in self._specs:
                matches = difflib.get_close_matches(str(name), self._specs, n=1)
                hint = "; did you mean %s?" % matches[0] if matches else ""
                raise WrongValue(
                    "%r is no input of the model, which has: %s%s" % (name, ", ".join(self._specs) or "none", hint)
                )
        missing = [name for name in self._specs if name not in given]
        if missing:
            raise WrongValue(
                "the model's input %r is missing; there is: %s" % (missing[0], ", ".join(map(str, given)) or "nothing")
            )
        return tuple(self._specs)

    def _read_input(self, name: str, value: Any) -> np.ndarray:
        array = _to_array(name, value)
        spec = None if self._specs is None else self._specs[name]
        if spec is not None:
            array = self._convert(spec, array)
        if name in self._rules:
            array = self._rules[name].pad_to_bucket(array)
        if spec is not None:
            self._check_shape(spec, array)
        return array

    def _convert(self, spec: TensorSpec, array: np.ndarray) -> np.ndarray:
        wanted = np.dtype(spec.dtype)
        if array.dtype == wanted:
            return array
        if not np.can_cast(array.dtype, wanted, self._casting):  # type: ignore[arg-type]
            raise WrongValue(
                "input %r is %s, the model takes %s: convert it with .astype(%r)"
                % (spec.name, array.dtype, wanted, str(wanted))
            )
        converted = array.astype(wanted)
        if wanted.kind in "iu" and self._casting != "unsafe" and not np.array_equal(converted, array):
            raise WrongValue(
                "input %r holds values from %s to %s, which do not fit the model's %s"
                % (spec.name, array.min(), array.max(), wanted)
            )
        return converted

    def _check_shape(self, spec: TensorSpec, array: np.ndarray) -> None:
        first = 1 if self.has_rows(spec.name, array) else 0
        fits = len(spec.shape) == array.ndim and not [
            0 for want, have in zip(spec.shape[first:], array.shape[first:]) if isinstance(want, int) and want != have
        ]
        if not fits and not self._will_be_padded(spec, array):
            raise WrongValue(
                "input %r has shape %s, the model takes %s (axis 0 holds the rows)"
                % (spec.name, array.shape, show_shape(spec.shape))
            )

    def _will_be_padded(self, spec: TensorSpec, array: np.ndarray) -> bool:
        return self.rule_to_longest(spec.name) is not None and len(spec.shape) == array.ndim

    def _agree_on_rows(self, names: Sequence[str], arrays: Sequence[np.ndarray]) -> int:
        counts = {name: array.shape[0] for name, array in zip(names, arrays) if self.has_rows(name, array)}
        if len(set(counts.values())) > 1:
            told = ", ".join("%r has %d" % item for item in counts.items())
            raise WrongValue("the inputs disagree about the number of rows: %s" % told)
        return next(iter(counts.values()), 1)

    def _key_of(self, name: str, array: np.ndarray) -> Hashable:
        if not self.has_rows(name, array):
            return array.dtype.str, array.shape, _content(array)
        shape = array.shape[1:]
        rule = self.rule_to_longest(name)
        if rule is not None:
            axis = rule.axis_of(array) - 1
            shape = shape[:axis] + (-1,) + shape[axis + 1 :]
        return array.dtype.str, shape


def _find_rows(specs: Sequence[TensorSpec]) -> Tuple[FrozenSet[str], Optional[int]]:
    """Return the names of the inputs that hold no rows, and the rows that the model takes at a time.

    If the model fixes the first axis of some inputs and leaves that of others open, the former hold no rows. If it
    fixes all, to different sizes, those of the largest hold the rows. If it has names for open axes, and uses some of
    them several times ("batch") and some once ("steps"), inputs with the latter hold no rows.
    """
    firsts = {spec.name: spec.shape[0] for spec in specs if spec.shape}
    fixed = {name: size for name, size in firsts.items() if isinstance(size, int)}
    words = {name: size for name, size in firsts.items() if isinstance(size, str)}
    if firsts and len(fixed) == len(firsts):
        rows = max(fixed.values())
        return frozenset(name for name, size in fixed.items() if size != rows), rows
    counts = Counter(words.values())
    own = [name for name, word in words.items() if counts[word] == 1] if len(counts) < len(words) else []
    return frozenset(fixed) | frozenset(own), None


def can_split(inputs: Optional[Sequence[TensorSpec]], outputs: Optional[Sequence[TensorSpec]]) -> Optional[bool]:
    """Whether the outputs of a model have a row for each row of the inputs; None: the specs do not tell.

    They do if they have the same name for the first axes, or the same size. They do not if the model leaves that of the
    inputs open and fixes that of an output, or if only some outputs have the name of the inputs.
    """
    firsts = {spec.shape[0] for spec in inputs or () if spec.shape}
    if not firsts or not outputs:
        return None
    if not all(spec.shape for spec in outputs):
        return False
    found = {spec.shape[0] for spec in outputs}
    if found <= firsts and None not in found:
        return True
    is_open = not all(isinstance(first, int) for first in firsts)
    is_fixed = any(isinstance(first, int) for first in found)
    is_partly_named = None not in found and not found.isdisjoint(firsts)
    return False if is_partly_named or (is_open and is_fixed) else None


def _to_array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        array = value
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "error"
                )  # numpy before 1.24 makes an array of objects of a ragged list, and warns
                array = np.asarray(value)
        except Exception as error:
            raise WrongValue(
                "input %r is a %s that makes no array (%s); are its lists of different lengths?"
                % (name, type(value).__name__, error)
            ) from None
    if array.dtype.kind not in _NUMBERS:
        raise WrongValue(
            "input %r is an array of %s; the model takes numbers: are its lists of different lengths, or is it text?"
            % (name, array.dtype)
        )
    return array


def _content(array: np.ndarray) -> bytes:
    content = array.tobytes()
    return content if len(content) <= _COMPARED_BYTES else hashlib.sha256(content).digest()


def show_shape(shape: Sequence[Any]) -> str:
    """Return a shape as text: ``(batch, 4, ?)``."""
    inner = ", ".join("?" if dim is None else str(dim) for dim in shape)
    return "(%s,)" % inner if len(shape) == 1 else "(%s)" % inner
