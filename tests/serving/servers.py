"""Servers for tests: the real command in a process of its own, which ends with the test."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

READY_S = 60.0
END_S = 60.0


class ServerProcess:
    """A server that runs.

    Attributes:
        process: the process.
        port: of HTTP.
        lines: what it has printed.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.port = 0
        self.grpc_port = 0
        self.lines: list[str] = []
        self._is_serving = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if found := re.search(r"serving gRPC on \S+:(\d+)", line):
                self.grpc_port = int(found[1])
            if found := re.search(r"serving on https?://\S+:(\d+)", line):
                self.port = int(found[1])
                self._is_serving.set()
        self._is_serving.set()

    def wait_until_serving(self) -> None:
        assert self._is_serving.wait(READY_S), self.lines
        assert self.port, "\n".join(self.lines)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(END_S)
        self._reader.join(END_S)
        return code

    def workers(self) -> list[int]:
        """Return the processes of the workers."""
        found = []
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # the thread has ended
                found += [int(pid) for pid in (thread / "children").read_text().split()]
        return found

    def request(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None):
        """Return (status, headers, body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def infer(self, model: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Run a model by the binary extension; raises AssertionError with the server's text where it fails."""
        head, body = encode_request(inputs)
        status, headers, answer = self.request(
            "POST", f"/v2/models/{model}/infer", body, {"Inference-Header-Content-Length": str(head)}
        )
        assert status == 200, answer
        return decode_answer(headers, answer)


DATATYPES = {
    "float32": "FP32",
    "float64": "FP64",
    "int64": "INT64",
    "int32": "INT32",
    "bool": "BOOL",
    "float16": "FP16",
}


def encode_request(inputs: dict[str, np.ndarray], **extra) -> tuple[int, bytes]:
    """Return (length of the JSON, body) of a request in binary form."""
    tensors = [
        {
            "name": name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}, **extra}).encode()
    return len(head), head + b"".join(array.tobytes() for array in inputs.values())


def decode_answer(headers: dict[str, str], body: bytes) -> dict[str, np.ndarray]:
    """Return the outputs of an answer in binary form."""
    at = int({name.lower(): value for name, value in headers.items()}["inference-header-content-length"])
    found = {}
    dtypes = {datatype: dtype for dtype, datatype in DATATYPES.items()}
    for output in json.loads(body[:at])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = np.frombuffer(body[at : at + size], dtypes[output["datatype"]]).reshape(output["shape"])
        at += size
    assert at == len(body)
    return found


@contextlib.contextmanager
def serving(
    *arguments: str | os.PathLike, env: dict[str, str] | None = None, program: Sequence[str] = ("-m", "ascend_parallel")
) -> Iterator[ServerProcess]:
    """Run ``ascend-parallel serve`` with these arguments, on a free port unless they say otherwise, until it serves."""
    command = [sys.executable, *program, "serve", *map(os.fspath, arguments)]
    if "--port" not in command:
        command += ["--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
    server = ServerProcess(process)
    try:
        server.wait_until_serving()
        yield server
    finally:
        try:
            server.end()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stderr is not None
            process.stderr.close()
