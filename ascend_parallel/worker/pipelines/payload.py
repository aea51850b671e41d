"""What goes to a worker that maps files, and what comes back: one uint8 array each way; both sides.

There: JSON, ``[[[path, name], ...], control]``. Back: one line of JSON, ``{"device": ..., "files": [[status, seconds,
detail], ...], "text_bytes": ..., "array_bytes": ...}``, and behind it the text and the arrays that were kept of the
results (see writers.py). Both are padded, so that arrays of many calls have the same few sizes and their memory is
found again.
"""

from __future__ import annotations

import json
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

#: How it went with a file. DONE: the detail is what is kept of its results (see writers.py). FAILED: a sentence.
#: UNSAVED: a sentence; the output folder takes no more files, and neither this one nor those behind it are done.
#: UNTRIED: None; the bundle took too long, or the pipeline broke before. SUSPECT: None; it is one of those over which
#: the pipeline broke, and to be tried alone.
DONE, FAILED, UNSAVED, UNTRIED, SUSPECT = 0, 1, 2, 3, 4

#: No batch is begun later than this in a bundle: files that were quick so far may have become slow.
BUNDLE_LIMIT_S = 0.5

#: The name of the arrays, as input and as output.
FILES, RECORDS = "files", "records"

#: Arrays are at least so long, and a power of two.
_LEAST_BYTES = 4096
#: Stands for an array in the JSON of a result: [offset in the arrays' bytes, dtype, shape].
ARRAY_KEY = "__array__"


def pad(data: bytes) -> np.ndarray:
    """Return bytes as a uint8 array whose length is a power of two; spaces fill it."""
    size = max(_LEAST_BYTES, 1 << max(0, len(data) - 1).bit_length())
    return np.frombuffer(data.ljust(size), np.uint8)


def pack_files(files: Sequence[Tuple[str, str]], control: Optional[str]) -> np.ndarray:
    """Return the request for some files, (path, name) each; ``control`` is the path of one that went well before."""
    return pad(json.dumps([files, control]).encode())


def unpack_files(array: np.ndarray) -> Tuple[List[Tuple[str, str]], Optional[str]]:
    """Return the files of a request, and the control."""
    files, control = json.loads(array.tobytes())
    return [(path, name) for path, name in files], control


def pack_records(device: str, records: Sequence[Any], text: bytes, arrays: bytes) -> bytes:
    """Return the answer; to be padded."""
    head = {"device": device, "files": records, "text_bytes": len(text), "array_bytes": len(arrays)}
    return json.dumps(head).encode() + b"\n" + text + arrays


def unpack_records(array: np.ndarray) -> Tuple[str, List[Any], bytes, bytes]:
    """Return device, records, text and arrays of an answer."""
    data = array.tobytes()
    head, _, _ = data.partition(b"\n")
    told = json.loads(head)
    start = len(head) + 1
    middle = start + told["text_bytes"]
    return told["device"], told["files"], data[start:middle], data[middle : middle + told["array_bytes"]]


def unpack_results(text: bytes, arrays: bytes) -> List[Any]:
    """Return the results that were packed: a list of them for each file that is done, arrays as arrays."""

    def restore(item: Any) -> Any:
        if ARRAY_KEY not in item:
            return item
        offset, dtype, shape = item[ARRAY_KEY]
        size = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(arrays, dtype, size, offset).reshape(shape).copy()

    found: List[Any] = json.loads(text, object_hook=restore if arrays else None)
    return found
