"""The pad rule of an op: inputs of different sizes along one axis become equal, so that requests can be joined.

``{"ids": {"axis": 1, "buckets": [16, 64], "value": 0}}``: the input ``ids`` is filled up with zeros along axis 1 to 16
or 64, whichever is the smallest that it fits in. Without buckets (None), it is filled up to the longest of those that
are run together. The outputs are not cut back: ``postprocess`` knows the sizes from its inputs.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from .failures import WrongValue


class PadRule:
    """How one input is padded.

    Attributes:
        buckets: the sizes that there are, in order; None: the longest of those that are run together.
    """

    def __init__(self, name: str, rule: Dict[str, Any]) -> None:
        self._name = name
        self._axis = int(rule["axis"])
        self._value = rule.get("value", 0)
        self.buckets: Optional[List[int]] = sorted(rule["buckets"]) if rule.get("buckets") else None

    def axis_of(self, array: np.ndarray) -> int:
        """Return the axis, counted from the first; raises WrongValue where the array has none, or its rows there."""
        axis = self._axis + array.ndim if self._axis < 0 else self._axis
        if not 0 < axis < array.ndim:
            raise WrongValue(
                "input %r has shape %s, but the pad rule names axis %d of it (axis 0 holds the rows)"
                % (self._name, array.shape, self._axis)
            )
        return axis

    def pad_to_bucket(self, array: np.ndarray) -> np.ndarray:
        """Return the array, padded to the smallest bucket; raises WrongValue where it fits in none."""
        if self.buckets is None:
            return array
        axis = self.axis_of(array)
        size = next((size for size in self.buckets if size >= array.shape[axis]), None)
        if size is None:
            raise WrongValue(
                "input %r has the size %d along axis %d; the largest bucket is %d: shorten it, or add a bucket"
                % (self._name, array.shape[axis], axis, self.buckets[-1])
            )
        return self._pad(array, axis, size)

    def pad_to_longest(self, arrays: Sequence[np.ndarray]) -> List[np.ndarray]:
        """Return the arrays, padded to the longest of them."""
        axis = self.axis_of(arrays[0])
        size = max(array.shape[axis] for array in arrays)
        return [self._pad(array, axis, size) for array in arrays]

    def _pad(self, array: np.ndarray, axis: int, size: int) -> np.ndarray:
        given = array.shape[axis]
        if given == size:
            return array
        padded: np.ndarray = np.full(array.shape[:axis] + (size,) + array.shape[axis + 1 :], self._value, array.dtype)
        padded[(slice(None),) * axis + (slice(0, given),)] = array
        return padded
