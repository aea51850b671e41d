"""Runs a service in the real Paddle Serving 0.9.0, with ONNX Runtime in place of Paddle's predictor. Python 3.8.

``python paddle_on_onnx.py web_service.py``, in the folder of the file. Where an op's ``model_config`` names a folder
with a ``model.onnx``, its ``process`` runs that. All else is the server's own.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from typing import Any

import onnxruntime
from paddle_serving_server.pipeline import operator

_building = threading.Lock()


class OnnxOp(operator.Op):
    """What replaces the methods of the server's Op."""

    own_init_from_dict = operator.Op.init_from_dict

    def init_from_dict(self, conf: dict[str, Any]) -> None:
        """Take the configuration, as if there were no model; keep where it is."""
        local = dict(conf.get("local_service_conf") or {})
        folder = local.pop("model_config", None)
        OnnxOp.own_init_from_dict(self, {**conf, "local_service_conf": local})
        self.onnx_file = folder and os.path.join(folder, "model.onnx")
        self.onnx_threads = local.get("thread_num", 1)
        self.onnx_session = None
        if folder:
            self.with_serving = True
            self.client_type = "onnx"  # of no kind for which the server would load Paddle

    def init_client(self, client_config: Any, server_endpoints: Any) -> None:
        """Make no client: the model is built when it is first used, in the op's own process."""

    def process(self, feed_batch: Any, typical_logid: int = 0) -> Any:
        """Run the model on a batch, whose rows the server has joined."""
        with _building:
            if self.onnx_session is None:
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = self.onnx_threads
                self.onnx_session = onnxruntime.InferenceSession(
                    self.onnx_file, options, providers=["CPUExecutionProvider"]
                )
        names = self._fetch_names or [output.name for output in self.onnx_session.get_outputs()]
        return dict(zip(names, self.onnx_session.run(names, feed_batch[0]))), 0, ""


def main() -> None:
    """Run the file that the arguments name."""
    for name in ("init_from_dict", "init_client", "process"):
        setattr(operator.Op, name, getattr(OnnxOp, name))
    sys.path.insert(0, os.getcwd())
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
