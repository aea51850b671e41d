"""What goes to a worker that maps files, and what comes back: one uint8 array each way; both sides.

There: JSON, ``[[path, name], ...]``. Back: one line of JSON, ``{"device": ..., "files": [[status, seconds, detail],
...]}``, and behind it the body: bytes that the files' details point into. Both are padded, so that arrays of many calls
have the same few sizes and their memory is found again.
"""

from __future__ import annotations

import json
from typing import Any, List, Sequence, Tuple

import numpy as np

#: How it went with a file. DONE: the detail is what is kept of its results (see keepers.py). FAILED: a sentence.
#: UNSAVED: a sentence; the output folder takes no more files, and neither this one nor those behind it are done.
DONE, FAILED, UNSAVED = 0, 1, 2

#: The name of the arrays, as input and as output.
FILES, RECORDS = "files", "records"

#: Arrays are at least so long, and a power of two.
_LEAST_BYTES = 4096
#: Stands for an array in the JSON of a result: [offset in the body, dtype, shape].
ARRAY_KEY = "__array__"


def pad(data: bytes) -> np.ndarray:
    """Return bytes as a uint8 array whose length is a power of two; spaces fill it."""
    size = max(_LEAST_BYTES, 1 << max(0, len(data) - 1).bit_length())
    return np.frombuffer(data.ljust(size), np.uint8)


def pack_files(files: Sequence[Tuple[str, str]]) -> np.ndarray:
    """Return the request for some files, (path, name) each."""
    return pad(json.dumps(files).encode())


def unpack_files(array: np.ndarray) -> List[Tuple[str, str]]:
    """Return the files of a request."""
    return [(path, name) for path, name in json.loads(array.tobytes())]


def pack_records(device: str, records: Sequence[Any], body: bytes) -> bytes:
    """Return the answer; to be padded."""
    return json.dumps({"device": device, "files": records}).encode() + b"\n" + body


def unpack_records(array: np.ndarray) -> Tuple[str, List[Any], bytes]:
    """Return device, records and body of an answer; the padding is still behind the body."""
    head, _, body = array.tobytes().partition(b"\n")
    told = json.loads(head)
    return told["device"], told["files"], body


def unpack_results(body: bytes, start: int, length: int) -> List[Any]:
    """Return the results of a file that lie in a body, arrays as arrays."""

    def restore(item: Any) -> Any:
        if ARRAY_KEY not in item:
            return item
        offset, dtype, shape = item[ARRAY_KEY]
        size = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(body, dtype, size, offset).reshape(shape).copy()

    found: List[Any] = json.loads(body[start : start + length], object_hook=restore)
    return found
