"""What every side is given: a model, a batch, and how it is cut. Python 3.7 and numpy, for MindSpore Lite's sake."""

from __future__ import annotations

import json
from typing import Any, Dict  # noqa: UP035 (Python 3.7)

import numpy as np

WORKERS = 2
#: The key of the expected output among the arrays of a job; no model's input is called so.
EXPECTED = "expected output"

Feeds = Dict[str, Any]  # noqa: UP006


class Job:
    """A model and one batch for it.

    Attributes:
        model: path of the .onnx or .mindir file.
        feeds: input name -> array; those of ``sliced`` have 2 * ``rows`` rows.
        sliced: the inputs that hold the batch; the others go whole to every worker.
        rows: what one worker gets of a call; also the size of a batch of the stream.
        expected: the output for ``feeds``, by ONNX Runtime alone.
        tolerance: the largest difference from it that is still the same numbers.
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
        """Return each worker's share of a batch, as views."""
        return [
            {name: a[i * self.rows : (i + 1) * self.rows] if name in self.sliced else a for name, a in feeds.items()}
            for i in range(WORKERS)
        ]
