"""What becomes of results: files, lines of one JSON-lines file, or values for the caller."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from .engines.parcel import ARRAY_KEY
from .jsontext import to_json
from .saving import Saver

#: (position, page, result), as pairing.py yields them.
Paired = Iterable[Tuple[int, Optional[int], Any]]


class FileKeeper:
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

    def take_body(self) -> bytes:
        """Return nothing: results are in files."""
        return b""


class LineKeeper:
    """Makes a line of JSON for each file, in the body; the detail of a file says where: [start, length]."""

    def __init__(self) -> None:
        self._body = bytearray()

    def keep(self, names: Sequence[str], paired: Paired) -> List[Any]:
        """Add the lines of a batch; return the detail of each file."""
        texts: List[List[bytes]] = [[] for _ in names]
        for position, _, result in paired:
            texts[position].append(to_json(result))
        return [self._add(self._line(name, made)) for name, made in zip(names, texts)]

    def _line(self, name: str, texts: List[bytes]) -> bytes:
        return b'{"file": %s, "results": [%s]}\n' % (json.dumps(name).encode(), b", ".join(texts))

    def _add(self, data: bytes) -> List[int]:
        start = len(self._body)
        self._body += data
        return [start, len(data)]

    def take_body(self) -> bytes:
        """Return the lines since the last time."""
        body = bytes(self._body)
        self._body.clear()
        return body


class ValueKeeper(LineKeeper):
    """Packs each file's results for the master: JSON, and arrays as their bytes; details as in :class:`LineKeeper`."""

    def keep(self, names: Sequence[str], paired: Paired) -> List[Any]:
        """Add the results of a batch; return the detail of each file."""
        texts: List[List[bytes]] = [[] for _ in names]
        for position, _, result in paired:
            texts[position].append(to_json(_array_of_image(result), self._add_array))
        return [self._add(b"[" + b", ".join(made) + b"]") for made in texts]

    def _add_array(self, item: Any) -> Optional[Dict[str, Any]]:
        item = _array_of_image(item)
        if not isinstance(item, np.ndarray) or item.dtype.hasobject:
            return None
        start, _ = self._add(np.ascontiguousarray(item).tobytes())
        return {ARRAY_KEY: [start, item.dtype.str, list(item.shape)]}


def _array_of_image(item: Any) -> Any:
    """Return a PIL image's pixels; anything else as it is."""
    return np.asarray(item) if type(item).__module__.startswith("PIL.") else item
