"""Ray Serve: HAProxy in front of replicas, which are actors of a local Ray cluster."""

from __future__ import annotations

import os
import signal
import sys
from typing import ClassVar

from .job import MAX_BATCH_SIZE, WORKERS, Job
from .server import Server

#: Without a wait Ray batches what already waits.
WAIT_S = 0.0
#: More than the largest number of connections, so that no request waits outside the batches.
MAX_ONGOING_REQUESTS = 256


class RayServe(Server):
    """Two replicas with `serve.batch`."""

    title = "Ray Serve"
    venv = "serve-ray"
    package = "ray"
    tuning = (
        "`RAY_SERVE_ENABLE_HA_PROXY=1`, `RAY_SERVE_HAPROXY_NBTHREAD=1`, `RAY_SERVE_THROUGHPUT_OPTIMIZED=1`, "
        f"`num_replicas={WORKERS}`, `max_batch_size={MAX_BATCH_SIZE}`, `batch_wait_timeout_s={WAIT_S:g}`; raw bodies"
    )
    leftovers = ("/tmp/haproxy-serve", "/tmp/haproxy-serve/*")
    environ: ClassVar[dict[str, str]] = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
    }


def main() -> None:
    """Serve the job that the arguments name."""
    import ray
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    job_path, port = sys.argv[1], int(sys.argv[2])

    @serve.deployment(
        num_replicas=WORKERS,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": 1},
        health_check_period_s=60,
    )
    class Model:
        def __init__(self) -> None:
            self._job = Job(job_path)
            self._session = self._job.open_session()

        @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=WAIT_S)
        async def run(self, bodies: list[bytes]) -> list[bytes]:
            outputs = self._job.run(self._session, [self._job.unpack(body) for body in bodies])
            return [output.tobytes() for output in outputs]

        async def __call__(self, request: Request) -> Response:
            return Response(await self.run(await request.body()), media_type="application/octet-stream")

    ray.init(
        num_cpus=WORKERS + 2, include_dashboard=False, object_store_memory=256 << 20, _temp_dir=os.environ["TMPDIR"]
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port, "access_log": False})
    serve.run(Model.options(logging_config={"enable_access_log": False}).bind(), route_prefix="/infer")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's own end takes 15 s; serving.py ends all processes
    signal.pause()


if __name__ == "__main__":
    main()
