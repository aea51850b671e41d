"""ascend_parallel itself, as the example's users start it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from servers.open_inference import LENGTH_HEADER

from .job import EXAMPLE
from .server import OcrServer


class Ours(OcrServer):
    """The example's own configuration: one process for each op."""

    title = "ascend_parallel"
    path = "/v2/models/NAME/infer"
    ready_path = "/v2/health/ready"
    tuning = "`examples/ocr_pipeline/config.yml` as it is: a process for each op; binary tensors"

    def command(self, port: int) -> list[str]:
        """Return the command."""
        return [self.python, "-m", "ascend_parallel", "serve", str(EXAMPLE / "config.yml"), "--port", str(port)]

    def headers(self) -> dict[str, str]:
        """Return the headers of the protocol's request; all pages have one shape."""
        return {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(self._head(self.job.pages[0])))}

    def body_of(self, page: np.ndarray) -> bytes:
        """Return the protocol's request."""
        return self._head(page) + page.tobytes()

    def _head(self, page: np.ndarray) -> bytes:
        tensor = {"name": "data", "datatype": "UINT8", "shape": page.shape}
        tensor["parameters"] = {"binary_data_size": page.nbytes}
        return json.dumps({"inputs": [tensor], "outputs": [{"name": "texts"}, {"name": "boxes"}]}).encode()

    def texts(self, headers: dict[str, str], body: bytes) -> Sequence[str]:
        """Return the texts of the answer, which is JSON."""
        outputs = {output["name"]: output for output in json.loads(body)["outputs"]}
        return list(outputs["texts"]["data"])
