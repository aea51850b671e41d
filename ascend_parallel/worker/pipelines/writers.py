"""The writers: results become files, lines of one JSON Lines file, or values for the caller."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from .formats import FormatSaver
from .json_text import JsonEncoder
from .payload import ARRAY_KEY
from .saving import Saver

#: (position, page, result), as ``pair`` yields them.
Paired = Iterable[Tuple[int, Optional[int], Any]]


class Writer:
    """The base class of writers: what one that keeps nothing has to say.

    Attributes:
        notes: sentences for the user; whoever passes them on empties the list.
    """

    notes: List[str]

    def write(self, names: Sequence[str], paired: Paired) -> List[Any]:
        """Keep the results of a batch, all or none; return the detail of each input file."""
        raise NotImplementedError

    def take(self) -> Tuple[bytes, bytes]:
        """Return what is to be sent since the last call: text, and the bytes of arrays; nothing if all is in files."""
        return b"", b""


class FileWriter(Writer):
    """Saves each result to a file; the detail of an input file is the names of its outputs."""

    def __init__(self, folder: str) -> None:
        self.notes = []
        self._saver = Saver(folder)

    def write(self, names: Sequence[str], paired: Paired) -> List[Any]:
        """Save the results of a batch, all or none; return the detail of each input file."""
        outputs: List[List[str]] = [[] for _ in names]
        try:
            for position, page, result in paired:
                outputs[position].append(self._saver.save(names[position], page, result))
        except BaseException:
            for file_outputs in outputs:
                self._saver.remove(file_outputs)
            raise
        return outputs


class FormatWriter(Writer):
    """Saves each result in the formats that it offers; the detail of an input file is the names of its outputs."""

    def __init__(self, folder: str, formats: Sequence[str]) -> None:
        self._saver = FormatSaver(folder, formats)
        self.notes = self._saver.notes

    def write(self, names: Sequence[str], paired: Paired) -> List[Any]:
        """Save the results of a batch, all or none; return the detail of each input file."""
        partials: Dict[int, str] = {}
        try:
            for position, page, result in paired:
                if position not in partials:
                    partials[position] = self._saver.begin(names[position])
                self._saver.save(partials[position], page, result)
            return [self._saver.publish(partials.pop(position), name) for position, name in enumerate(names)]
        finally:
            for partial in partials.values():
                self._saver.discard(partial)


class JsonLinesWriter(Writer):
    """Encodes one line of JSON per input file; the details are None."""

    def __init__(self) -> None:
        self.notes = []
        self._json = JsonEncoder()
        self._lines: List[bytes] = []

    def write(self, names: Sequence[str], paired: Paired) -> List[Any]:
        """Add the lines of a batch; return the detail of each input file."""
        texts: List[List[bytes]] = [[] for _ in names]
        for position, _, result in paired:
            texts[position].append(self._json.encode(result))
        for name, file_texts in zip(names, texts):
            self._lines.append(b'{"file": %s, "results": [%s]}\n' % (json.dumps(name).encode(), b", ".join(file_texts)))
        return [None] * len(names)

    def take(self) -> Tuple[bytes, bytes]:
        """Return the lines since the last call."""
        lines = b"".join(self._lines)
        self._lines.clear()
        return lines, b""


class ValueWriter(Writer):
    """Packs results for the master (see payload.py): JSON, and the bytes of arrays; the details are None."""

    def __init__(self) -> None:
        self.notes = []
        self._json = JsonEncoder(self._add_array)
        self._texts: List[bytes] = []
        self._arrays = bytearray()

    def write(self, names: Sequence[str], paired: Paired) -> List[Any]:
        """Add the results of a batch; return the detail of each input file."""
        texts: List[List[bytes]] = [[] for _ in names]
        for position, _, result in paired:
            texts[position].append(self._json.encode(image_to_array(result)))
        self._texts += [b"[" + b", ".join(file_texts) + b"]" for file_texts in texts]
        return [None] * len(names)

    def _add_array(self, item: Any) -> Optional[Dict[str, Any]]:
        item = image_to_array(item)
        if not isinstance(item, np.ndarray) or item.dtype.kind not in "biufc":
            return None
        start = len(self._arrays)
        self._arrays += np.ascontiguousarray(item).tobytes()
        return {ARRAY_KEY: [start, item.dtype.str, list(item.shape)]}

    def take(self) -> Tuple[bytes, bytes]:
        """Return the results since the last call: a JSON list with one element per file, and the arrays' bytes."""
        texts, arrays = b"[" + b", ".join(self._texts) + b"]", bytes(self._arrays)
        self._texts.clear()
        self._arrays.clear()
        return texts, arrays


def image_to_array(item: Any) -> Any:
    """Return the pixels of a PIL image as an array; any other object unchanged."""
    return np.asarray(item) if type(item).__module__.startswith("PIL.") else item
