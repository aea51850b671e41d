"""Compares two ONNX files with the same inputs and outputs: both are run with onnxruntime on the same data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ascend_parallel.errors import ConversionError
from ascend_parallel.worker.engines.onnxruntime import OnnxRuntimeEngine

from .verify import Difference

__all__ = ["TOLERANCES", "check_opens", "compare_onnx"]

#: Precision -> the accepted difference, relative to an output's range. float16 has a precision of 1e-3, and int8 has
#: 255 steps for the range of each layer: more is a sign of a model that is not fit for it.
TOLERANCES = {"fp16": 2e-2, "int8": 1e-1}
Feeds = Mapping[str, Any]


def check_opens(made: Path, name: Path) -> OnnxRuntimeEngine:
    """Open a result, which is to be called ``name``: tools can write graphs that do not fit together.

    Raises:
        ConversionError: if onnxruntime does not open it.
    """
    try:
        return OnnxRuntimeEngine(str(made), ("cpu", 0), {})
    except Exception as error:  # onnxruntime's errors have no common base class
        text = " ".join(str(error).split())
        raise ConversionError(f"onnxruntime cannot open {name}, which was just made: {text}") from error


def compare_onnx(source: Path, made: Path, name: Path, data: Iterable[Feeds], limit: float) -> list[Difference]:
    """Run both models on each of the inputs; return the largest difference of each output.

    Args:
        source: the original.
        made: the result.
        name: what the result is to be called.
        data: inputs, by name.
        limit: the accepted difference, relative to the output's range over all data.

    Raises:
        ConversionError: if an output differs by more, or a model does not run on these inputs.
    """
    result = check_opens(made, name)
    original = OnnxRuntimeEngine(str(source), ("cpu", 0), {})
    spreads: dict[str, Spread] = {}
    for feeds in data:
        expected, actual = _run(original, source, feeds), _run(result, name, feeds)
        for output, values in expected.items():
            if actual[output].shape != values.shape:
                raise ConversionError(
                    f"the output {output!r} of {name} has shape {actual[output].shape}, not {values.shape}"
                )
            spreads.setdefault(output, Spread()).add(values, actual[output])
    differences = [spread.difference(output) for output, spread in spreads.items()]
    for difference in differences:
        if not difference.share <= limit:  # also true for NaN
            raise ConversionError(
                f"{name} does not compute the same as {source}: {difference}; the tolerance is {limit:g}"
            )
    return differences


def _run(engine: OnnxRuntimeEngine, name: Path, feeds: Feeds) -> Mapping[str, Any]:
    names = [spec.name for spec in engine.inputs or ()]
    try:
        return engine.predict(names, [np.ascontiguousarray(feeds[name]) for name in names], {})
    except Exception as error:
        text = " ".join(str(error).split())
        raise ConversionError(f"onnxruntime could not run {name} on the data to verify with: {text}") from error


class Spread:
    """The range of one output, and the largest difference from it, over all data seen so far."""

    def __init__(self) -> None:
        self._low, self._high, self._largest = np.inf, -np.inf, 0.0

    def add(self, expected: Any, actual: Any) -> None:
        """Take the values of one run, of equal shapes."""
        expected, actual = expected.astype(np.float64), actual.astype(np.float64)
        finite = expected[np.isfinite(expected)]
        if finite.size:
            self._low, self._high = min(self._low, finite.min()), max(self._high, finite.max())
        same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))  # infinities compare equal, too
        with np.errstate(invalid="ignore"):
            found = np.where(same, 0.0, np.abs(expected - actual))
        self._largest = float(np.maximum(self._largest, found.max(initial=0.0)))  # a NaN stays

    def difference(self, output: str) -> Difference:
        """Return the largest difference, absolute and relative to the range."""
        is_known = self._low <= self._high
        size = (self._high - self._low or max(abs(self._low), abs(self._high))) if is_known else 0.0
        return Difference(output, self._largest, self._largest / (float(size) or 1.0))
