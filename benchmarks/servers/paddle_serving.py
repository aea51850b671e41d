"""Paddle Serving 0.9.0 in its pipeline mode, with a Python operator around ONNX Runtime. Python 3.8.

Its other modes take models of Paddle only. The pipeline's HTTP takes and gives JSON with strings, so bytes are base64.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import numpy as np

from .job import MAX_BATCH_SIZE, WORKERS, Job
from .server import Server

#: The shortest there is; a batch waits that long for more rows. Without a timeout it waits for a full batch.
AUTO_BATCHING_TIMEOUT_MS = 1
#: gRPC's threads behind the HTTP gateway: each holds a request until it is answered.
WORKER_NUM = 64
KEY = "body"


class PaddleServing(Server):
    """The gateway, the pipeline, and an operator of two processes."""

    title = "Paddle Serving, pipeline"
    venv = "serve-paddle"
    package = "paddle-serving-server"
    path = "/job/prediction"
    tuning = (
        f"`worker_num: {WORKER_NUM}`, `is_thread_op: True` (twice as fast here as `False`), "
        f"`concurrency: {WORKERS}`, `batch_size: {MAX_BATCH_SIZE}`, "
        f"`auto_batching_timeout: {AUTO_BATCHING_TIMEOUT_MS}` (ms, the shortest); base64 in JSON"
    )

    def headers(self) -> dict[str, str]:
        """Return the headers of the request."""
        return {"Content-Type": "application/json"}

    def body(self) -> bytes:
        """Return the raw body as base64 in JSON."""
        return json.dumps({"key": [KEY], "value": [base64.b64encode(self.job.pack()).decode()]}).encode()

    def output(self, headers: dict[str, str], body: bytes) -> np.ndarray:
        """Return the output of the answer."""
        answer = json.loads(body)
        if answer["err_no"]:
            raise ValueError(f"err_no {answer['err_no']}: {answer['err_msg']}")
        return np.frombuffer(base64.b64decode(answer["value"][0]), self.job.expected.dtype)


def main() -> None:
    """Serve the job that the arguments name."""
    from paddle_serving_server.pipeline import Op
    from paddle_serving_server.web_service import WebService

    job = Job(sys.argv[1])

    class JobOp(Op):
        def init_op(self) -> None:
            """Open the session, and have `process` called, although there is no model of Paddle."""
            self.with_serving = True
            self.session = job.open_session()

        def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:
            (inputs,) = input_dicts.values()
            return job.unpack(base64.b64decode(inputs[KEY])), False, None, ""

        def process(self, feed_batch: Any, typical_logid: int) -> Any:
            """Run a batch, whose rows the pipeline has joined: along the first axis of every input."""
            feeds = feed_batch[0]
            if set(feeds) == set(job.batched):
                return {job.output: self.session.run(None, feeds)[0]}, 0, ""
            rows = [{name: feeds[name][row : row + 1] for name in feeds} for row in range(len(feeds[job.batched[0]]))]
            return {job.output: np.concatenate(job.run(self.session, rows))}, 0, ""

        def postprocess(self, input_data: Any, fetch_data: Any, data_id: int, log_id: int) -> Any:
            return {job.output: base64.b64encode(fetch_data[job.output].tobytes()).decode()}, None, ""

    class JobService(WebService):
        def get_pipeline_response(self, read_op: Any) -> Any:
            return JobOp(name="job", input_ops=[read_op])

    service = JobService(name="job")
    settings = {
        "http_port": int(sys.argv[2]),
        "worker_num": WORKER_NUM,
        "build_dag_each_worker": False,
        "dag": {"is_thread_op": True, "retry": 1},
        "op": {
            "job": {
                "concurrency": WORKERS,
                "batch_size": MAX_BATCH_SIZE,
                "auto_batching_timeout": AUTO_BATCHING_TIMEOUT_MS,
                "local_service_conf": {"client_type": "brpc"},
            }
        },
    }
    service.prepare_pipeline_config(yml_dict=settings)
    service.run_service()


if __name__ == "__main__":
    main()
