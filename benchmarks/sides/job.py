"""The job of every side: a model, a batch, and how it is divided. Python 3.7 and numpy, for MindSpore Lite."""

from __future__ import annotations

import json
from typing import Any, Dict  # noqa: UP035 (Python 3.7)

import numpy as np

WORKERS = 2
#: The key of the expected output among a job's arrays; no model has an input with this name.
EXPECTED = "expected output"

Feeds = Dict[str, Any]  # noqa: UP006


class Job:
    """A model and one batch for it.

    Attributes:
        model: path of the .onnx or .mindir file.
        feeds: input name -> array; those of ``sliced`` have 2 * ``rows`` rows.
        sliced: the inputs with a batch axis; the others are broadcast to all workers.
        rows: the rows of one worker in a call; also the size of a batch of the stream.
        expected: the output for ``feeds``, computed by ONNX Runtime alone.
        tolerance: the accepted difference from it.
        worker_python: the interpreter that has MindSpore Lite, for models that need it.
    """

    def __init__(self, path: str) -> None:
        with open(path) as file:
            settings = json.load(file)
        with np.load(settings["arrays"]) as arrays:
            self.feeds: Feeds = {name: arrays[name] for name in settings["inputs"]}
            self.expected = arrays[EXPECTED]
        self.model: str = settings["model"]
        self.sliced: list[str] = settings["sliced"]
        self.rows: int = settings["rows"]
        self.tolerance: float = settings["tolerance"]
        self.worker_python: str = settings["worker_python"]

    def halves(self, feeds: Feeds) -> list[Feeds]:
        """Return each worker's part of a batch, as views."""
        return [
            {name: a[i * self.rows : (i + 1) * self.rows] if name in self.sliced else a for name, a in feeds.items()}
            for i in range(WORKERS)
        ]
