"""The server: the real command in a process of its own."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from .clients import Tally

#: The first element of a request that hangs in an op of the pipeline.
HANGS = -1.0
_SOURCE = '''
import time


def doubles(device=None):
    """Doubles x, in up to two milliseconds."""

    def run(inputs):
        time.sleep(float(inputs["x"].flat[0] % 3) * 0.001)
        return {"y": inputs["x"] * 2}

    return run


def hangs(device=None):
    def run(inputs):
        time.sleep(3600)

    return run


class Same:
    """Passes x on."""

    def __init__(self, device):
        pass

    def predict(self, inputs):
        return {"x": inputs["x"]}


class Join:
    """Makes y of what two ops gave; hangs where x begins with -1."""

    def __init__(self, device):
        pass

    def predict(self, inputs):
        if inputs["x"].flat[0] == -1:
            time.sleep(3600)
        return {"y": inputs["x"] + (inputs["y"] - inputs["x"])}
'''


def write_model(folder: Path) -> str:
    """Write the models' file; return its path."""
    path = folder / "models_under_fire.py"
    path.write_text(_SOURCE)
    return str(path)


class ServedProcess:
    """A server that runs.

    Attributes:
        process: the process.
        port: of HTTP.
    """

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]

    def compare_counts(self, tally: Tally) -> list[str]:
        """Return where the server's own counts differ from the clients'."""
        url = f"http://127.0.0.1:{self.port}/v2/models/doubles/stats"
        stats = json.load(urllib.request.urlopen(url))["model_stats"][0]["inference_stats"]
        succeeded, failed = stats["success"]["count"], stats["fail"]["count"]
        if (succeeded, failed) == (tally.answered, 0):
            return []
        return [f"the server counts {succeeded} answers and {failed} failures, the clients {tally.answered} answers"]


def describe_models(model: str, hangs_timeout_s: float) -> dict[str, object]:
    """Return the settings of the model on two workers, and with a timeout also of the one that hangs."""
    models: list[dict[str, object]] = [{"path": f"{model}:doubles", "name": "doubles", "devices": "cpu:0,1"}]
    if hangs_timeout_s:
        batching = {"timeout_ms": hangs_timeout_s * 1000}
        models.append({"path": f"{model}:hangs", "name": "hangs", "devices": "cpu:0", "batching": batching})
    return {"models": models}


def describe_pipeline(model: str, hangs_timeout_s: float) -> dict[str, object]:
    """Return the settings of a pipeline that doubles, too: the model beside Python, joined by Python; five workers."""
    ops: list[dict[str, object]] = [
        {"name": "doubles", "path": f"{model}:doubles", "devices": "cpu:0,1", "inputs": {"x": "request.x"}},
        {"name": "same", "python": f"{model}:Same"},
        {"name": "join", "python": f"{model}:Join", "concurrency": 2, "inputs": {"x": "same.x", "y": "doubles.y"}},
    ]
    if hangs_timeout_s:
        ops[2]["timeout_ms"] = hangs_timeout_s * 1000
    return {"pipelines": [{"name": "doubles", "ops": ops}]}


@contextlib.contextmanager
def serve(
    model: str, *, pipeline: bool = False, drain_timeout_s: float = 30.0, hangs_timeout_s: float = 0.0
) -> Iterator[ServedProcess]:
    """Serve the model, or the pipeline that has it; with a timeout, something that hangs, too."""
    served = (describe_pipeline if pipeline else describe_models)(model, hangs_timeout_s)
    config = Path(model).with_suffix(".yml")
    config.write_text(json.dumps({"port": 0, "drain_timeout_s": drain_timeout_s, **served}))
    command = [sys.executable, "-m", "ascend_parallel", "serve", str(config)]
    log = config.with_suffix(".log")
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file)
    try:
        yield ServedProcess(process, wait_for_port(process, log))
    finally:
        process.terminate()
        process.wait()


def wait_for_port(process: subprocess.Popen[str], log: Path) -> int:
    """Return the port that the server's log names."""
    while True:
        if found := re.search(r"serving on http://\S+:(\d+)", log.read_text()):
            return int(found[1])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            raise SystemExit(f"the server did not start:\n{log.read_text()}")


def resident_mib(pid: int) -> float:
    """Return the memory of a process that is its own, in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return sum(int(size) for size in re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", text)) / 1024
