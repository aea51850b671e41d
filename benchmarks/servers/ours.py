"""ascend_parallel itself, as its users start it."""

from __future__ import annotations

import numpy as np

from . import open_inference
from .job import MAX_BATCH_SIZE
from .server import Server


class Ours(Server):
    """Two worker processes behind `ascend-parallel serve`."""

    title = "ascend_parallel"
    path = "/v2/models/NAME/infer"
    ready_path = "/v2/health/ready"
    tuning = f"`--devices cpu:0,1 --max-batch-size {MAX_BATCH_SIZE}`, no delay; binary tensors"

    def command(self, port: int) -> list[str]:
        """Return the command, with the model's file as its name."""
        options = ["--devices", "cpu:0,1", "--port", str(port), "--max-batch-size", str(MAX_BATCH_SIZE)]
        return [self.python, "-m", "ascend_parallel", "serve", self.job.model, *options]

    def headers(self) -> dict[str, str]:
        """Return the headers of the protocol's request."""
        return open_inference.pack(self.job)[0]

    def body(self) -> bytes:
        """Return the protocol's request."""
        return open_inference.pack(self.job)[1]

    def output(self, headers: dict[str, str], body: bytes) -> np.ndarray:
        """Return the output of the protocol's answer."""
        return open_inference.unpack(self.job, headers, body)
