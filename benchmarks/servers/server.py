"""What serving.py needs to know of a server: its command, the request, and what an answer holds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np

from .job import Job

BENCHMARKS = Path(__file__).resolve().parents[1]


class ServerError(Exception):
    """A server did not start, answered wrongly, or failed requests."""


class Server:
    """A server that is started for one model. A subclass per server, each in a file of its own.

    The file is also the program that the server's own Python runs: ``python -m servers.NAME JOB.json PORT``.
    By default the body is the raw bytes of all inputs, the answer the raw bytes of the output.

    Attributes:
        title: the title in tables.
        venv: the folder of its Python among the venvs; "" for this Python.
        package: the package whose version the report states; "" for none.
        tuning: how it is tuned, in one sentence for the documentation.
        path: the path of the route that infers; NAME stands for the model's name.
        ready_path: a path that answers 200 once all workers are ready; "" where there is none.
        environ: environment variables to start it with.
        leftovers: glob patterns of what it may leave outside its own folder; PID stands for its process id.
    """

    title: ClassVar[str]
    venv: ClassVar[str] = ""
    package: ClassVar[str] = ""
    tuning: ClassVar[str] = ""
    path: ClassVar[str] = "/infer"
    ready_path: ClassVar[str] = ""
    environ: ClassVar[dict[str, str]] = {}
    leftovers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, job: Job, venvs: Path) -> None:
        self.job = job
        self.python = python_of(self.venv, venvs)

    def command(self, port: int) -> list[str]:
        """Return the command that serves the job's model on a port of 127.0.0.1."""
        return [self.python, "-m", type(self).__module__, self.job.path, str(port)]

    def headers(self) -> dict[str, str]:
        """Return the headers of the request."""
        return {"Content-Type": "application/octet-stream"}

    def body(self) -> bytes:
        """Return the body of the request."""
        return self.job.pack()

    def output(self, headers: dict[str, str], body: bytes) -> np.ndarray:
        """Return the output that an answer holds, flat; ``headers`` have names in lower case."""
        return np.frombuffer(body, self.job.expected.dtype)

    def check(self, headers: dict[str, str], body: bytes) -> None:
        """Compare an answer with ONNX Runtime's own result; raises ServerError."""
        try:
            output = self.output(headers, body)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ServerError(f"{self.title} answered {body[:200]!r}: {error}") from error
        if output.size != self.job.expected.size:
            raise ServerError(f"{self.title} answered {output.size} values; expected {self.job.expected.size}")
        difference = float(np.abs(output.reshape(-1) - self.job.expected.reshape(-1)).max())
        if not difference <= self.job.tolerance:
            raise ServerError(f"{self.title}'s answer differs from onnxruntime's result by {difference:g}")


def python_of(venv: str, venvs: Path) -> str:
    """Return the path of the Python of a venv; this Python for ""."""
    return str(venvs / venv / "bin" / "python") if venv else sys.executable


def environment(server: Server, temporary: Path) -> dict[str, str]:
    """Return the environment of a server: its own modules, one thread per library, its own temporary folder."""
    paths = [str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    bin_folder = str(Path(server.python).parent)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", "")]),
        "OMP_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "TMPDIR": str(temporary),
        **server.environ,
    }
