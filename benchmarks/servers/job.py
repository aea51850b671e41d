"""What every server serves: a model, and one request to it. Python 3.8, numpy and onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Sequence  # noqa: UP035 (Python 3.8)

import numpy as np

WORKERS = 2
#: The largest batch that any server may form.
MAX_BATCH_SIZE = 16

Feeds = Dict[str, Any]  # noqa: UP006


class Job:
    """A model, and a request of one row.

    A raw body is the bytes of all inputs, in the model's order. The shapes are fixed, so a server needs no more.

    Attributes:
        path: the file that this was read from.
        name: the name of the model.
        model: path of the .onnx file.
        feeds: input name -> array, the inputs of the request.
        batched: the inputs whose first axis is the batch; the others are only equal or not.
        output: the name of the model's output.
        expected: the output for ``feeds``, computed by ONNX Runtime alone.
        tolerance: the accepted difference from it.
    """

    def __init__(self, path: str) -> None:
        settings = json.loads(Path(path).read_text())
        with np.load(settings["arrays"]) as arrays:
            self.feeds: Feeds = {name: arrays[name] for name in settings["inputs"]}
            self.expected = arrays[settings["expected"]]
        self.path = str(path)
        self.name: str = settings["name"]
        self.model: str = settings["model"]
        self.batched: List[str] = settings["batched"]  # noqa: UP006
        self.output: str = settings["output"]
        self.tolerance: float = settings["tolerance"]
        self._layout = []
        offset = 0
        for name, array in self.feeds.items():
            self._layout.append((name, array.dtype, array.size, offset, array.shape))
            offset += array.nbytes
        self._shared = [name for name in self.feeds if name not in self.batched]

    def pack(self) -> bytes:
        """Return the raw body of the request."""
        return b"".join(array.tobytes() for array in self.feeds.values())

    def unpack(self, body: bytes) -> Feeds:
        """Return the inputs of a raw body, as views of it."""
        return {
            name: np.frombuffer(body, dtype, count, offset).reshape(shape)
            for name, dtype, count, offset, shape in self._layout
        }

    def open_session(self) -> Any:
        """Return an ONNX Runtime session of one thread, because a worker has one core."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])

    def run(self, session: Any, requests: Sequence[Feeds]) -> List[Any]:  # noqa: UP006
        """Run requests of one row each as few batches as possible; return the output of each, in order."""
        if len(requests) == 1:
            return [session.run(None, requests[0])[0]]
        outputs: List[Any] = [None] * len(requests)  # noqa: UP006
        for members in self._group(requests):
            feeds = {name: np.concatenate([requests[i][name] for i in members]) for name in self.batched}
            feeds.update((name, requests[members[0]][name]) for name in self._shared)
            batch = session.run(None, feeds)[0]
            for row, index in enumerate(members):
                outputs[index] = batch[row : row + 1]
        return outputs

    def _group(self, requests: Sequence[Feeds]) -> Any:
        """Return the numbers of the requests whose inputs without a batch axis are equal, group by group."""
        if not self._shared:
            return [range(len(requests))]
        groups: Dict[Any, List[int]] = {}  # noqa: UP006
        for index, request in enumerate(requests):
            groups.setdefault(tuple(request[name].tobytes() for name in self._shared), []).append(index)
        return groups.values()
