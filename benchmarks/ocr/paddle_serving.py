"""Paddle Serving 0.9.0 in its pipeline mode: two operators around ONNX Runtime, each a process. Python 3.8.

Operators as threads give wrong answers, so they are processes. Requests are joined in the first operator only: two
shapes in one batch end an operator for good, and lines of text have several.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any, Sequence  # noqa: UP035 (Python 3.8)

import numpy as np

from .job import DETECT_BATCH_SIZE, OcrJob, load_ops, open_session
from .server import OcrServer

#: The shortest there is; a batch waits that long for more pages. Without a timeout it waits for a full batch.
AUTO_BATCHING_TIMEOUT_MS = 1
#: gRPC's threads behind the HTTP gateway: each holds a request until it is answered.
WORKER_NUM = 32
KEY = "page"


class PaddleServing(OcrServer):
    """The gateway, the pipeline, and two operators of a process each."""

    title = "Paddle Serving, pipeline"
    venv = "serve-paddle"
    package = "paddle-serving-server"
    path = "/ocr/prediction"
    tuning = (
        f"`worker_num: {WORKER_NUM}`, `is_thread_op: False` (threads share an op's attributes, and answers get mixed "
        f"up), `concurrency: 1` for each op, detect with `batch_size: {DETECT_BATCH_SIZE}` and "
        f"`auto_batching_timeout: {AUTO_BATCHING_TIMEOUT_MS}` (ms, the shortest), recognise with mini-batches and "
        "without batching; base64 in JSON"
    )

    def headers(self) -> dict[str, str]:
        """Return the headers of the request."""
        return {"Content-Type": "application/json"}

    def body_of(self, page: np.ndarray) -> bytes:
        """Return the page as base64 in JSON."""
        return json.dumps({"key": [KEY], "value": [base64.b64encode(page.tobytes()).decode()]}).encode()

    def texts(self, headers: dict[str, str], body: bytes) -> Sequence[str]:
        """Return the texts of the answer."""
        answer = json.loads(body)
        if answer["err_no"]:
            raise ValueError(f"err_no {answer['err_no']}: {answer['err_msg']}")
        return list(json.loads(dict(zip(answer["key"], answer["value"]))["texts"]))  # noqa: B905 (Python 3.8)


def cut_lines(boxes: np.ndarray, ink: np.ndarray) -> list[np.ndarray]:
    """Return the pictures of lines that lie one after the other in an array."""
    shapes = [(bottom - top, right - left) for left, top, right, bottom in boxes.tolist()]
    ends = np.cumsum([rows * columns for rows, columns in shapes]).tolist()
    return [ink[end - rows * columns : end].reshape(rows, columns) for end, (rows, columns) in zip(ends, shapes)]  # noqa: B905


def main() -> None:
    """Serve the example."""
    from paddle_serving_server.pipeline import Op
    from paddle_serving_server.web_service import WebService

    shape = OcrJob().pages[0].shape

    class DetectOp(Op):
        def init_op(self) -> None:
            """Open the session, and have `process` called, although there is no model of Paddle."""
            self.with_serving = True
            self.op, self.session = load_ops().Detect("cpu:0"), open_session("detect")

        def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:
            (inputs,) = input_dicts.values()
            page = np.frombuffer(base64.b64decode(inputs[KEY]), np.uint8).reshape(shape)
            return self.op.preprocess({"page": page}), False, None, ""

        def process(self, feed_batch: Any, typical_logid: int) -> Any:
            """Run pages that the pipeline has joined; their pictures go on with the scores."""
            pages = feed_batch[0]["page"]
            return {"text": self.session.run(None, {"page": pages})[0], "dark": pages}, 0, ""

        def postprocess(self, input_data: Any, fetch_data: Any, data_id: int, log_id: int) -> Any:
            found = self.op.postprocess({"text": fetch_data["text"]}, {"dark": fetch_data["dark"][0, 0]})
            ink = np.concatenate([np.zeros(0, np.float32), *map(np.ravel, found["lines"])])  # it takes no empty list
            return {"boxes": found["boxes"], "ink": ink}, None, ""

    class RecogniseOp(Op):
        def init_op(self) -> None:
            self.with_serving = True
            self.op, self.session = load_ops().Recognise("cpu:0"), open_session("recognise")

        def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:
            (self.found,) = input_dicts.values()
            self.inputs = {"lines": cut_lines(**self.found)}
            batches = self.op.preprocess(self.inputs)
            is_skipped = not isinstance(batches, list)
            return ({"lines": np.zeros((0, 1))} if is_skipped else batches), is_skipped, None, ""

        def process(self, feed_batch: Any, typical_logid: int) -> Any:
            """Run one mini-batch, or all of them, as the pipeline calls it."""
            outputs = [self.session.run(None, {"lines": batch["lines"]})[0] for batch in feed_batch]
            return {f"digits{number}": output for number, output in enumerate(outputs)}, 0, ""

        def postprocess(self, input_data: Any, fetch_data: Any, data_id: int, log_id: int) -> Any:
            batches = fetch_data if isinstance(fetch_data, list) else [fetch_data]
            outputs = [{"digits": array} for batch in batches for name, array in batch.items() if "digits" in name]
            texts = self.op.postprocess(outputs, self.inputs)["texts"].tolist()
            return {"texts": json.dumps(texts), "boxes": json.dumps(self.found["boxes"].tolist())}, None, ""

    class OcrService(WebService):
        def get_pipeline_response(self, read_op: Any) -> Any:
            return RecogniseOp(name="recognise", input_ops=[DetectOp(name="detect", input_ops=[read_op])])

    service = OcrService(name="ocr")
    local = {"client_type": "brpc"}
    settings = {
        "http_port": int(sys.argv[2]),
        "worker_num": WORKER_NUM,
        "build_dag_each_worker": False,
        "dag": {"is_thread_op": False, "retry": 1},
        "op": {
            "detect": {
                "concurrency": 1,
                "batch_size": DETECT_BATCH_SIZE,
                "auto_batching_timeout": AUTO_BATCHING_TIMEOUT_MS,
                "local_service_conf": local,
            },
            "recognise": {"concurrency": 1, "local_service_conf": local},
        },
    }
    service.prepare_pipeline_config(yml_dict=settings)
    service.run_service()


if __name__ == "__main__":
    main()
