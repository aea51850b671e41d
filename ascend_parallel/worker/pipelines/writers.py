"""What becomes of results: files, lines of one JSON-lines file, or values for the caller."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from .json_text import JsonEncoder
from .payload import ARRAY_KEY
from .saving import Saver

#: (position, page, result), as pairing.py yields them.
Paired = Iterable[Tuple[int, Optional[int], Any]]


class FileWriter:
    """Saves each result to a file of its own; the detail of a file is its outputs' names."""

    def __init__(self, folder: str) -> None:
        self._saver = Saver(folder)

    def keep(self, names: Sequence[str], paired: Paired) -> List[Any]:
        """Save a batch, all of it or nothing; return the detail of each file."""
        outputs: List[List[str]] = [[] for _ in names]
        try:
            for position, page, result in paired:
                outputs[position].append(self._saver.save(names[position], page, result))
        except BaseException:
            for made in outputs:
                self._saver.remove(made)
            raise
        return outputs

    def take(self) -> Tuple[bytes, bytes]:
        """Return nothing: results are in files."""
        return b"", b""


class JsonLinesWriter:
    """Makes a line of JSON for each file; there is no more detail."""

    def __init__(self) -> None:
        self._json = JsonEncoder()
        self._lines: List[bytes] = []

    def keep(self, names: Sequence[str], paired: Paired) -> List[Any]:
        """Add the lines of a batch; return the detail of each file."""
        texts: List[List[bytes]] = [[] for _ in names]
        for position, _, result in paired:
            texts[position].append(self._json.write(result))
        for name, made in zip(names, texts):
            self._lines.append(b'{"file": %s, "results": [%s]}\n' % (json.dumps(name).encode(), b", ".join(made)))
        return [None] * len(names)

    def take(self) -> Tuple[bytes, bytes]:
        """Return the lines since the last time."""
        lines = b"".join(self._lines)
        self._lines.clear()
        return lines, b""


class ValueWriter:
    """Packs results for the master (see payload.py): JSON, and the bytes of arrays; there is no more detail."""

    def __init__(self) -> None:
        self._json = JsonEncoder(self._add_array)
        self._texts: List[bytes] = []
        self._arrays = bytearray()

    def keep(self, names: Sequence[str], paired: Paired) -> List[Any]:
        """Add the results of a batch; return the detail of each file."""
        texts: List[List[bytes]] = [[] for _ in names]
        for position, _, result in paired:
            texts[position].append(self._json.write(array_of_image(result)))
        self._texts += [b"[" + b", ".join(made) + b"]" for made in texts]
        return [None] * len(names)

    def _add_array(self, item: Any) -> Optional[Dict[str, Any]]:
        item = array_of_image(item)
        if not isinstance(item, np.ndarray) or item.dtype.kind not in "biufc":
            return None
        start = len(self._arrays)
        self._arrays += np.ascontiguousarray(item).tobytes()
        return {ARRAY_KEY: [start, item.dtype.str, list(item.shape)]}

    def take(self) -> Tuple[bytes, bytes]:
        """Return the results since the last time: a list of JSON with an element for each file, and the arrays."""
        texts, arrays = b"[" + b", ".join(self._texts) + b"]", bytes(self._arrays)
        self._texts.clear()
        self._arrays.clear()
        return texts, arrays


def array_of_image(item: Any) -> Any:
    """Return a PIL image's pixels; anything else as it is."""
    return np.asarray(item) if type(item).__module__.startswith("PIL.") else item
