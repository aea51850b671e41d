"""The part ``serve`` of cluster.py: our application of Ray Serve beside plain deployments with ``serve.batch``.

All serve the same MLP on two replicas with one thread each, on one Ray cluster; wrk sends requests of one row to each
in turn. The plain ones take and return raw bytes, as one would write it; ours speak the Open Inference Protocol.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from ray import serve
from rich.console import Console
from rich.table import Table
from servers.job import MAX_BATCH_SIZE, WORKERS, Job
from servers.load import format_script
from servers.models import write_job
from servers.open_inference import pack
from servers.process import find_port

#: What HAProxy leaves.
LEFTOVERS = "/tmp/haproxy-serve"
CONNECTIONS = (1, 16, 64)
SECONDS = 2
#: More than the largest number of connections: no request waits outside the batches.
MAX_ONGOING_REQUESTS = 256
OPTIONS: dict[str, Any] = {
    "num_replicas": WORKERS,
    "max_ongoing_requests": MAX_ONGOING_REQUESTS,
    "ray_actor_options": {"num_cpus": 0.5},  # four applications on the four CPUs of Ray's of cluster.py
}
QUIET = {"enable_access_log": False}


def plain_model(job_path: str) -> Any:
    """Return the deployment that one writes without us."""

    @serve.deployment(name="plain", logging_config=QUIET, **OPTIONS)
    class Plain:
        def __init__(self) -> None:
            self._job = Job(job_path)
            self._session = self._job.open_session()

        @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=0.0)
        async def run(self, bodies: list[bytes]) -> list[bytes]:
            outputs = self._job.run(self._session, [self._job.unpack(body) for body in bodies])
            return [output.tobytes() for output in outputs]

        async def __call__(self, request: Any) -> Any:
            from starlette.responses import Response

            return Response(await self.run(await request.body()), media_type="application/octet-stream")

    return Plain.bind()


def plain_ingress(job_path: str) -> Any:
    """Return the same behind an ingress that sends a request to another replica if its own is lost."""

    @serve.deployment(
        name="ingress", logging_config=QUIET, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0}
    )
    class Ingress:
        def __init__(self, models: Any) -> None:
            self._models = models.options(method_name="run")

        async def __call__(self, request: Any) -> Any:
            import ray
            from starlette.responses import Response

            body = await request.body()
            for _ in range(3):
                try:
                    return Response(await self._models.remote(body), media_type="application/octet-stream")
                except ray.exceptions.RayActorError:
                    continue
            return Response(status_code=500)

    return Ingress.bind(plain_model(job_path))


def our_application(job: Job, max_retries: int) -> Any:
    """Return ours."""
    from ascend_parallel.ray_serve import build

    model = {
        "path": job.model,
        "name": job.name,
        "devices": "cpu:0",
        "engine_options": {"threads": 1},
        "batching": {"max_batch_size": MAX_BATCH_SIZE},
    }
    return build({"config": {"models": [model]}, "max_retries": max_retries, "logging_config": QUIET, **OPTIONS})


def measure_serve(console: Console, rounds: int, folder: Path) -> None:
    """Print requests a second by the number of connections."""
    job_path = str(write_job("mlp", folder))
    job = Job(job_path)
    port = find_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    headers, body = pack(job)
    infer = f"/v2/models/{job.name}/infer"
    raw = ({"Content-Type": "application/octet-stream"}, job.pack())
    sides = {
        "plain": (plain_model(job_path), "", raw),
        "ours, max_retries=0": (our_application(job, 0), infer, (headers, body)),
        "plain, with a retrying ingress": (plain_ingress(job_path), "", raw),
        "ours": (our_application(job, 2), infer, (headers, body)),
    }
    rates: dict[str, dict[int, list[float]]] = {name: {count: [] for count in CONNECTIONS} for name in sides}
    urls = {}
    for number, (name, (application, path, request)) in enumerate(sides.items()):
        serve.run(application, name=f"side{number}", route_prefix=f"/side{number}")
        urls[name] = f"http://127.0.0.1:{port}/side{number}{path}"
        check(urls[name], request, job)
        write_script(folder, number, request)
        print(f"{name} runs", file=sys.stderr)
    for _ in range(rounds):
        for count in CONNECTIONS:
            for number, name in enumerate(sides):
                rates[name][count].append(load(urls[name], folder / f"{number}.lua", count))
    serve.shutdown()
    shutil.rmtree(LEFTOVERS, ignore_errors=True)
    print_rates(console, rates, rounds)


def check(url: str, request: tuple[dict[str, str], bytes], job: Job) -> None:
    """Check an answer: the output's bytes come last."""
    headers, body = request
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as response:
        answer = response.read()
    output = np.frombuffer(answer[-job.expected.nbytes :], job.expected.dtype)
    assert np.allclose(output, job.expected.reshape(-1), atol=job.tolerance)


def write_script(folder: Path, number: int, request: tuple[dict[str, str], bytes]) -> None:
    """Write the request as wrk's script."""
    headers, body = request
    file = folder / f"{number}.body"
    file.write_bytes(body)
    (folder / f"{number}.lua").write_text(format_script(file, headers))


def load(url: str, script: Path, connections: int) -> float:
    """Return requests a second."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--timeout=10s", f"-s{script}", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    counted = json.loads(done.stdout.splitlines()[-1])
    assert not counted["errors"] and counted["requests"], done.stdout
    return float(counted["requests"] / counted["duration_us"] * 1e6)


def print_rates(console: Console, rates: dict[str, dict[int, list[float]]], rounds: int) -> None:
    """Print the medians, and ours relative to the plain ones."""
    table = Table(title=f"Ray Serve: requests a second, two replicas; medians of {rounds} rounds of {SECONDS} s")
    for title in ("connections", *rates, "ratio without\nan ingress", "ratio with one"):
        table.add_column(title, justify="right")
    for count in CONNECTIONS:
        plain, direct, ingress, ours = (own[count] for own in rates.values())
        middle = [f"{statistics.median(own):,.0f}" for own in (plain, direct, ingress, ours)]
        table.add_row(str(count), *middle, ratio(direct, plain), ratio(ours, ingress))
    console.print(table)


def ratio(ours: list[float], plain: list[float]) -> str:
    """Return the median and the range of our rate relative to the plain one, round by round."""
    values = sorted(own / other for own, other in zip(ours, plain, strict=True))
    return f"{statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"
