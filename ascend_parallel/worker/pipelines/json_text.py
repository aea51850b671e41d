"""Results as JSON text."""

from __future__ import annotations

import json
from typing import Any, Callable, Optional

import numpy as np


class JsonEncoder:
    """Writes results as JSON: numpy's numbers as numbers, arrays as lists; what has a ``json`` of its own, as that."""

    def __init__(self, special: Optional[Callable[[Any], Any]] = None) -> None:
        """Make a writer.

        Args:
            special: called first with what JSON does not know; returns what stands for it, or None to leave it.
        """
        self._special = special
        # Kept, as json.dumps makes a new one each time, which takes longer than a small result.
        self._encoder = json.JSONEncoder(ensure_ascii=False, default=self._plain)

    def write(self, value: Any) -> bytes:
        """Return a result as JSON.

        Raises:
            TypeError: something in it is of a type that JSON cannot hold.
        """
        value = own_json(value)
        try:
            text = self._encoder.encode(value)
        except TypeError as error:
            if "keys must be" not in str(error):
                raise
            text = self._encoder.encode(_with_plain_keys(value))
        try:
            return text.encode()
        except UnicodeEncodeError:  # a file name that is no UTF-8
            return json.dumps(json.loads(text)).encode()

    def _plain(self, item: Any) -> Any:
        found = self._special(item) if self._special is not None else None
        return _plain(item) if found is None else found


def own_json(value: Any) -> Any:
    """Return what a result says of itself as JSON (a dict, or the text of one); else the result."""
    said = getattr(value, "json", None)
    if said is None:
        return value
    if callable(said):
        said = said()
    if isinstance(said, str):
        said = json.loads(said)
    return said["res"] if isinstance(said, dict) and list(said) == ["res"] else said


def _plain(item: Any) -> Any:
    if isinstance(item, np.generic):
        return item.item()
    if isinstance(item, np.ndarray) and not item.dtype.hasobject:
        return item.tolist()
    if hasattr(item, "__fspath__"):
        return item.__fspath__()
    raise TypeError(
        "the result holds a %s, which JSON cannot; return dicts, lists, strings, numbers and numpy arrays"
        % type(item).__name__
    )


def _with_plain_keys(value: Any) -> Any:
    """Return a copy whose keys are those that JSON takes: numpy's numbers are no numbers to it."""
    if isinstance(value, dict):
        return {
            key.item() if isinstance(key, np.generic) else key: _with_plain_keys(item) for key, item in value.items()
        }
    return [_with_plain_keys(item) for item in value] if isinstance(value, (list, tuple)) else value
