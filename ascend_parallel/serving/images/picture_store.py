"""The pictures that clients fetch by a URL: the latest ones, in memory."""

from __future__ import annotations

import secrets

#: Pictures that are kept, and their bytes; the oldest go first.
MAX_PICTURES = 256
MAX_BYTES = 256 << 20
#: Of a name: as hard to guess as a key of 128 bits.
_NAME_BYTES = 16


class PictureStore:
    """The latest pictures, by names that nobody can guess.

    ``len()`` is how many there are.
    """

    def __init__(self, max_pictures: int = MAX_PICTURES, max_bytes: int = MAX_BYTES) -> None:
        """Make an empty store that keeps at most so many pictures and bytes."""
        self._max_pictures = max_pictures
        self._max_bytes = max_bytes
        self._pictures: dict[str, bytes] = {}  # in the order in which they came
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, picture: bytes) -> str:
        """Keep a picture; return its name."""
        name = secrets.token_urlsafe(_NAME_BYTES)
        self._pictures[name] = picture
        self._bytes += len(picture)
        while len(self._pictures) > self._max_pictures or (self._bytes > self._max_bytes and len(self._pictures) > 1):
            oldest = next(iter(self._pictures))
            self._bytes -= len(self._pictures.pop(oldest))
        return name

    def find(self, name: str) -> bytes | None:
        """Return a picture; None where there is none of this name, or none any more."""
        return self._pictures.get(name)
