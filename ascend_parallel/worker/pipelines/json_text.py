"""Encoding of results as JSON text."""

from __future__ import annotations

import json
from typing import Any, Callable, Optional

import numpy as np


class JsonEncoder:
    """Encodes results as JSON: numpy numbers as numbers, arrays as lists, objects by their ``json`` attribute."""

    def __init__(self, special: Optional[Callable[[Any], Any]] = None) -> None:
        """Create an encoder.

        Args:
            special: called first with each value that JSON does not support; returns a replacement, or None if it has
                none.
        """
        self._special = special
        # One encoder for all calls: json.dumps creates a new one per call, which takes longer than a small result.
        self._encoder = json.JSONEncoder(ensure_ascii=False, default=self._plain)

    def encode(self, value: Any) -> bytes:
        """Return a result as JSON text in UTF-8.

        Raises:
            TypeError: if the result contains a type that JSON does not support.
        """
        value = json_of_result(value)
        try:
            text = self._encoder.encode(value)
        except TypeError as error:
            if "keys must be" not in str(error):
                raise
            text = self._encoder.encode(_convert_keys(value))
        try:
            return text.encode()
        except UnicodeEncodeError:  # a file name that is not valid UTF-8
            return json.dumps(json.loads(text)).encode()

    def _plain(self, item: Any) -> Any:
        replacement = self._special(item) if self._special is not None else None
        return _plain(item) if replacement is None else replacement


def json_of_result(result: Any) -> Any:
    """Return the ``json`` attribute of a result (a dict, JSON text, or a method that returns one); else the result."""
    value = getattr(result, "json", None)
    if value is None:
        return result
    if callable(value):
        value = value()
    if isinstance(value, str):
        value = json.loads(value)
    return value["res"] if isinstance(value, dict) and list(value) == ["res"] else value


def _plain(item: Any) -> Any:
    if isinstance(item, np.generic):
        return item.item()
    if isinstance(item, np.ndarray) and not item.dtype.hasobject:
        return item.tolist()
    if hasattr(item, "__fspath__"):
        return item.__fspath__()
    raise TypeError(
        "the result contains a %s, which JSON does not support; return dicts, lists, strings, numbers and numpy arrays"
        % type(item).__name__
    )


def _convert_keys(value: Any) -> Any:
    """Return a copy with keys that JSON supports: numpy numbers become Python numbers."""
    if isinstance(value, dict):
        return {key.item() if isinstance(key, np.generic) else key: _convert_keys(item) for key, item in value.items()}
    return [_convert_keys(item) for item in value] if isinstance(value, (list, tuple)) else value
