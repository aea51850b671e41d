"""The codec of map's requests and replies, for both sides: one uint8 array in each direction.

Request: JSON, ``[[[path, name], ...], known_good]``. Reply: one line of JSON, ``{"device": ..., "files": [[status,
seconds, detail], ...], "text_bytes": ..., "array_bytes": ...}``, followed by the text and the arrays of the results
(see writers.py). Both are padded to a power of two, so that few sizes occur and shared memory is reused.
"""

from __future__ import annotations

import json
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

#: The status of a file, and its detail. DONE: what the writer returned (see writers.py). FAILED: the reason, a
#: sentence. UNSAVED: a sentence; the output folder accepts no more files, and this file and all after it are
#: unprocessed. UNTRIED: None; the bundle exceeded its time limit, or the pipeline broke before this file. SUSPECT:
#: None; the pipeline broke in this file's batch, so the file is to be processed alone.
DONE, FAILED, UNSAVED, UNTRIED, SUSPECT = 0, 1, 2, 3, 4

#: After this time, a worker starts no further batch of a bundle: files that were quick so far may have become slow.
BUNDLE_LIMIT_S = 0.5

#: The name of the arrays, as input and as output.
FILES, RECORDS = "files", "records"

#: The minimum size of an array.
_LEAST_BYTES = 4096
#: The key of a dict that replaces an array in the JSON of a result: [offset in the arrays' bytes, dtype, shape].
ARRAY_KEY = "__array__"


def pad(data: bytes) -> np.ndarray:
    """Return bytes as a uint8 array whose length is a power of two, padded with spaces."""
    size = max(_LEAST_BYTES, 1 << max(0, len(data) - 1).bit_length())
    return np.frombuffer(data.ljust(size), np.uint8)


def pack_files(files: Sequence[Tuple[str, str]], known_good: Optional[str]) -> np.ndarray:
    """Return the request for some files, (path, name) each; ``known_good`` is the path of a file processed before."""
    return pad(json.dumps([files, known_good]).encode())


def unpack_files(array: np.ndarray) -> Tuple[List[Tuple[str, str]], Optional[str]]:
    """Return the files and the known good path of a request."""
    files, known_good = json.loads(array.tobytes())
    return [(path, name) for path, name in files], known_good


def pack_records(device: str, records: Sequence[Any], text: bytes, arrays: bytes) -> bytes:
    """Return the reply, without its padding."""
    head = {"device": device, "files": records, "text_bytes": len(text), "array_bytes": len(arrays)}
    return json.dumps(head).encode() + b"\n" + text + arrays


def unpack_records(array: np.ndarray) -> Tuple[str, List[Any], bytes, bytes]:
    """Return the device, records, text and arrays of a reply."""
    data = array.tobytes()
    head, _, _ = data.partition(b"\n")
    fields = json.loads(head)
    start = len(head) + 1
    middle = start + fields["text_bytes"]
    return fields["device"], fields["files"], data[start:middle], data[middle : middle + fields["array_bytes"]]


def unpack_results(text: bytes, arrays: bytes) -> List[Any]:
    """Return the packed results: a list of results for each file with status DONE, with numpy arrays."""

    def restore(item: Any) -> Any:
        if ARRAY_KEY not in item:
            return item
        offset, dtype, shape = item[ARRAY_KEY]
        size = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(arrays, dtype, size, offset).reshape(shape).copy()

    results: List[Any] = json.loads(text, object_hook=restore if arrays else None)
    return results
