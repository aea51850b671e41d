"""A cache on the machine of prepared models, whose weights several processes map instead of loading them each.

::

    $XDG_CACHE_HOME/ascend-parallel/weights/    else ~/.cache/ascend-parallel/weights/
    ├── models/PATH/lock        held by the process that looks a model up or prepares it
    ├── models/PATH/hash.json   its files, as they were when their bytes were hashed, and that hash
    ├── models/PATH/partial/    what is being prepared; what a killed process left is cleared by the next
    └── entries/KEY/            a prepared model, with sizes.json, by which a damaged one is known

PATH is a hash of the model's path; KEY one of its bytes and of all that a prepared model depends on. So a model is
hashed once, not at each start, and copies of it share one entry. The folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

#: The prepared model, in the folder of its entry.
MODEL_NAME = "model.onnx"
_SIZES_NAME = "sizes.json"
#: What of a file's status changes when the file does; the time of st_ctime_ns cannot be set by a user.
_STATUS = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
#: A file that changed so lately could change again unseen, within one tick of its file system's clock.
_SETTLED_S = 2.0
#: An entry that was not used for so long is deleted when another is made: each update of onnxruntime leaves some.
_UNUSED_S = 30 * 86400.0
_HASH_CHUNK_BYTES = 1 << 22
#: How an ONNX file names a file of weights: the key "location" (field 1 of a map's entry), then its value (field 2).
_LOCATION = b"\n\x08location\x12"


class WeightsCache:
    """The cache in one folder; raises OSError where that cannot be read or written."""

    def __init__(self, root: Path) -> None:
        self._models = root / "models"
        self._entries = root / "entries"

    def fetch(self, model: Path, variant: str, prepare: Callable[[Path], None]) -> Path:
        """Return the path of a prepared model, prepared now where that was not done before.

        Processes that ask for one model at the same time wait for the first, which prepares it.

        Args:
            model: an ONNX file.
            variant: whatever else the prepared model depends on, as text.
            prepare: writes the prepared model, :data:`MODEL_NAME`, and all that belongs to it into a folder.
        """
        place = self._models / _hash_text(str(model.resolve()))
        for folder in (place, self._entries):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(place / "lock"):
            entry = self._entries / _hash_text(_hash_model(model, place / "hash.json") + variant)
            if not _is_whole(entry):
                self._clear()
                _make(entry, place / "partial", prepare)
            os.utime(str(entry / _SIZES_NAME))  # when it was used last
        return entry / MODEL_NAME

    def _clear(self) -> None:
        """Delete entries that nobody used for long; a process that has mapped their files keeps them."""
        for entry in self._entries.iterdir():
            with contextlib.suppress(OSError):  # another process is at it
                if (entry / _SIZES_NAME).stat().st_mtime < time.time() - _UNUSED_S:
                    shutil.rmtree(str(entry))


def cache_root() -> Path:
    """Return the cache's folder, where the XDG Base Directory Specification places it.

    Raises RuntimeError where this user has no home and no other folder is named.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the specification has such ones ignored
        home = os.path.expanduser("~")  # noqa: PTH111 - pathlib's raises this and that, by version
        if not os.path.isabs(home):  # noqa: PTH117
            raise RuntimeError("share_weights needs a folder for its cache, and there is no home: set XDG_CACHE_HOME")
        base = Path(home) / ".cache"
    return base / "ascend-parallel" / "weights"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; the system releases it when the process ends, however it does."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(entry: Path, partial: Path, prepare: Callable[[Path], None]) -> None:
    """Make an entry, whole or not at all; the caller holds the lock of ``partial``."""
    shutil.rmtree(str(partial), ignore_errors=True)
    partial.mkdir(mode=0o700)
    try:
        prepare(partial)
        _seal(partial)
        if entry.exists() and not _is_whole(entry):
            shutil.rmtree(str(entry))
        try:
            partial.rename(entry)
        except OSError:
            if not _is_whole(entry):  # it was made meanwhile from a copy of the model at another path
                raise
    finally:
        shutil.rmtree(str(partial), ignore_errors=True)


# ---- what a model is


def find_files(model: Path) -> List[Path]:
    """Return the files of an ONNX model: itself, and those that are to hold its weights, whether they are there or not.

    They are found by the bytes with which an ONNX file names them, in subgraphs too, without reading it into memory.
    """
    names = set()
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        at = view.find(_LOCATION)
        while at >= 0:
            length, start = _read_varint(view, at + len(_LOCATION))
            names.add(view[start : start + length])
            at = view.find(_LOCATION, start)
    return [model] + [model.parent / os.fsdecode(name) for name in sorted(names) if b"\0" not in name]


def _read_varint(view: mmap.mmap, at: int) -> Tuple[int, int]:
    """Return a number of protobuf's, seven bits a byte and the lowest first, and where it ends."""
    value = shift = 0
    while at < len(view):
        value |= (view[at] & 0x7F) << shift
        shift += 7
        at += 1
        if view[at - 1] < 0x80:
            break
    return value, at


def _hash_model(model: Path, memo: Path) -> str:
    """Return a hash of all bytes of a model; that of the memo where the files are still what they were."""
    known = _read_json(memo)
    if "hash" in known and all(_status(Path(path)) == status for path, status in known["files"].items()):
        return str(known["hash"])
    files = {str(path): _status(path) for path in find_files(model)}
    whole = _hash_text("\n".join(_hash_file(Path(path)) for path, status in files.items() if status))
    settled_ns = (time.time() - _SETTLED_S) * 1e9
    if all(max(status, default=0) < settled_ns and status == _status(Path(path)) for path, status in files.items()):
        _write_json(memo, {"files": files, "hash": whole})
    return whole


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_HASH_CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_text(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def _status(path: Path) -> List[int]:
    """Return what changes when a file does; nothing where there is no such file."""
    if not path.is_file():
        return []
    found = path.stat()
    return [getattr(found, field) for field in _STATUS]


# ---- what an entry is


def _seal(folder: Path) -> None:
    """Note the sizes of a folder's files when their bytes are on the disk: a power cut must not leave zeros there."""
    sizes = {}
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.name] = path.stat().st_size
    _write_json(folder / _SIZES_NAME, sizes)


def _is_whole(entry: Path) -> bool:
    sizes = _read_json(entry / _SIZES_NAME)
    paths = [(entry / name, size) for name, size in sizes.items()]
    return MODEL_NAME in sizes and all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _read_json(path: Path) -> Dict[str, Any]:
    """Return a file's dict; an empty one where there is no such file, or it is damaged."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, content: Dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
