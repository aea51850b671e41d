"""The machine's cache of prepared models, whose weights several processes map instead of loading a copy each.

::

    $XDG_CACHE_HOME/ascend-parallel/weights/    else ~/.cache/ascend-parallel/weights/
    ├── models/PATH/lock        locked by the process that looks up or prepares the model
    ├── models/PATH/hash.json   the status of the model's files when they were hashed, and the hash
    ├── models/PATH/partial/    a prepared model in progress; the next process removes what a killed one left
    └── entries/KEY/            a prepared model, with sizes.json to detect damage

PATH is a hash of the model's path. KEY is a hash of the model's bytes and of everything else that the prepared model
depends on. A model is hashed once, not at each start. Copies of a model share one entry. The folder may be deleted at
any time.
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

#: The file name of the prepared model in its entry.
MODEL_NAME = "model.onnx"
_SIZES_NAME = "sizes.json"
#: Fields of a file's status that change with its content; a user cannot set st_ctime_ns.
_STATUS = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
#: A file changed more recently could change again without a new time stamp, within one tick of the file system's clock.
_STABLE_S = 2.0
#: An entry unused for this long is deleted when another is created: each update of onnxruntime leaves old ones.
_UNUSED_S = 30 * 86400.0
_HASH_CHUNK_BYTES = 1 << 22
#: How an ONNX file refers to a weight file: the key "location" (field 1 of a map's entry), then its value (field 2).
_LOCATION = b"\n\x08location\x12"


class WeightsCache:
    """The cache in one folder; methods raise OSError if it cannot be read or written."""

    def __init__(self, root: Path) -> None:
        self._models = root / "models"
        self._entries = root / "entries"

    def fetch(self, model: Path, variant: str, prepare: Callable[[Path], None]) -> Path:
        """Return the path of a prepared model; prepare it first if it is not in the cache.

        Processes that request the same model at the same time wait until the first one has prepared it.

        Args:
            model: an ONNX file.
            variant: everything else that the prepared model depends on, as text.
            prepare: writes the prepared model (:data:`MODEL_NAME`) and its other files to the folder that it is given.
        """
        model_folder = self._models / _hash_text(str(model.resolve()))
        for folder in (model_folder, self._entries):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(model_folder / "lock"):
            entry = self._entries / _hash_text(_hash_model(model, model_folder / "hash.json") + variant)
            if not _is_complete(entry):
                self._delete_unused()
                _create_entry(entry, model_folder / "partial", prepare)
            os.utime(str(entry / _SIZES_NAME))  # the time of the last use
        return entry / MODEL_NAME

    def _delete_unused(self) -> None:
        """Delete entries that were not used for long; a process that has mapped their files keeps them."""
        for entry in self._entries.iterdir():
            with contextlib.suppress(OSError):  # another process is deleting it
                if (entry / _SIZES_NAME).stat().st_mtime < time.time() - _UNUSED_S:
                    shutil.rmtree(str(entry))


def cache_root(name: str = "weights", what: str = "share_weights") -> Path:
    """Return the folder of a cache, which ``what`` needs, as the XDG Base Directory Specification defines it.

    Raises RuntimeError if this user has no home folder and no other folder is set.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the specification requires to ignore a relative path
        home = os.path.expanduser("~")  # noqa: PTH111 - pathlib raises different exceptions, depending on its version
        if not os.path.isabs(home):  # noqa: PTH117
            raise RuntimeError("%s needs a folder for its cache, and there is no home: set XDG_CACHE_HOME" % what)
        base = Path(home) / ".cache"
    return base / "ascend-parallel" / name


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file; the system releases it when the process ends for any reason."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _create_entry(entry: Path, partial: Path, prepare: Callable[[Path], None]) -> None:
    """Create an entry atomically; the caller holds the lock of ``partial``."""
    shutil.rmtree(str(partial), ignore_errors=True)
    partial.mkdir(mode=0o700)
    try:
        prepare(partial)
        _record_sizes(partial)
        if entry.exists() and not _is_complete(entry):
            shutil.rmtree(str(entry))
        try:
            partial.rename(entry)
        except OSError:
            if not _is_complete(entry):  # else another process created it from a copy of the model at another path
                raise
    finally:
        shutil.rmtree(str(partial), ignore_errors=True)


# ---- the files of a model


def find_files(model: Path) -> List[Path]:
    """Return the files of an ONNX model: the model and its external weight files, whether they exist or not.

    They are found by the bytes that refer to them, in subgraphs too, without reading the model into memory.
    """
    names = set()
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        position = view.find(_LOCATION)
        while position >= 0:
            length, start = _read_varint(view, position + len(_LOCATION))
            names.add(view[start : start + length])
            position = view.find(_LOCATION, start)
    return [model] + [model.parent / os.fsdecode(name) for name in sorted(names) if b"\0" not in name]


def _read_varint(view: mmap.mmap, position: int) -> Tuple[int, int]:
    """Return a protobuf varint (seven bits per byte, the lowest first) and the position after it."""
    value = shift = 0
    while position < len(view):
        value |= (view[position] & 0x7F) << shift
        shift += 7
        position += 1
        if view[position - 1] < 0x80:
            break
    return value, position


def _hash_model(model: Path, memo: Path) -> str:
    """Return the hash of a model's bytes; it is read from the memo if the files' status is unchanged."""
    known = _read_json(memo)
    if "hash" in known and all(_status(Path(path)) == status for path, status in known["files"].items()):
        return str(known["hash"])
    files = {str(path): _status(path) for path in find_files(model)}
    digest = _hash_text("\n".join(_hash_file(Path(path)) for path, status in files.items() if status))
    stable_ns = (time.time() - _STABLE_S) * 1e9
    if all(max(status, default=0) < stable_ns and status == _status(Path(path)) for path, status in files.items()):
        _write_json(memo, {"files": files, "hash": digest})
    return digest


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_HASH_CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_text(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def _status(path: Path) -> List[int]:
    """Return the values that change with a file; [] if the file does not exist."""
    if not path.is_file():
        return []
    status = path.stat()
    return [getattr(status, field) for field in _STATUS]


# ---- entries


def _record_sizes(folder: Path) -> None:
    """Sync a folder's files to the disk and record their sizes: after a power cut, a file could contain zeros."""
    sizes = {}
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.name] = path.stat().st_size
    _write_json(folder / _SIZES_NAME, sizes)


def _is_complete(entry: Path) -> bool:
    sizes = _read_json(entry / _SIZES_NAME)
    paths = [(entry / name, size) for name, size in sizes.items()]
    return MODEL_NAME in sizes and all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _read_json(path: Path) -> Dict[str, Any]:
    """Return the dict in a JSON file; {} if the file does not exist or is damaged."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: Dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
