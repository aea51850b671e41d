"""The codec of map's requests and replies, for both sides: one uint8 array in each direction.

Request: JSON, ``[[[path, name], ...], known_good, fresh_after]``. Reply: one line of JSON, ``{"device": ..., "files":
[[status, seconds, detail], ...], "is_certain": ..., "notes": [...], "text_bytes": ..., "array_bytes": ...}``, followed
by the text and the arrays of the results (see writers.py). Both are padded to a power of two, so that few sizes occur
and shared memory is reused.
"""

from __future__ import annotations

import json
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

#: The status of a file, and its detail. DONE: what the writer returned (see writers.py). FAILED: the reason, a
#: sentence. UNSAVED: a sentence; the output folder accepts no more files, and this file and all after it are
#: unprocessed. UNTRIED: None; the bundle exceeded its time limit, or the pipeline broke before this file. SUSPECT: the
#: reason; the pipeline broke in this file's batch, or was broken from its start, so the file is to be processed alone.
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


class Reply(NamedTuple):
    """What a worker answers.

    Attributes:
        device: the worker's device.
        records: [status, seconds, detail] of each file.
        is_certain: whether the files are the cause of the failures: something succeeded in that process, too.
        notes: sentences for the user.
        text: the results as text.
        arrays: the bytes of the arrays in them.
    """

    device: str
    records: Sequence[Any]
    is_certain: bool
    notes: Sequence[str]
    text: bytes
    arrays: bytes


def pack_files(files: Sequence[Tuple[str, str]], known_good: Optional[str], fresh_after: int) -> np.ndarray:
    """Return the request for some files, (path, name) each.

    Args:
        files: the files.
        known_good: the path of a file that was processed without an error before; None: no file was so far.
        fresh_after: without a known good file, after so many failures and no success a worker is to be replaced.
    """
    return pad(json.dumps([files, known_good, fresh_after]).encode())


def unpack_files(array: np.ndarray) -> Tuple[List[Tuple[str, str]], Optional[str], int]:
    """Return the files, the known good path, and ``fresh_after`` of a request."""
    files, known_good, fresh_after = json.loads(array.tobytes())
    return [(path, name) for path, name in files], known_good, fresh_after


def pack_reply(reply: Reply) -> bytes:
    """Return the encoded reply, without its padding."""
    head = {"device": reply.device, "files": reply.records, "is_certain": reply.is_certain, "notes": reply.notes}
    sizes = {"text_bytes": len(reply.text), "array_bytes": len(reply.arrays)}
    return json.dumps({**head, **sizes}).encode() + b"\n" + reply.text + reply.arrays


def unpack_reply(array: np.ndarray) -> Reply:
    """Return the reply."""
    data = array.tobytes()
    head, _, _ = data.partition(b"\n")
    fields = json.loads(head)
    start = len(head) + 1
    middle = start + fields["text_bytes"]
    text, arrays = data[start:middle], data[middle : middle + fields["array_bytes"]]
    return Reply(fields["device"], fields["files"], fields["is_certain"], fields["notes"], text, arrays)


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
