"""Ray Serve's model composition: an ingress, and a deployment for each op, which it calls by deployment handles."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from servers import ray_serve

from .job import DETECT_BATCH_SIZE, RECOGNISE_BATCH_SIZE
from .server import OcrServer

WAIT_S = 0.0
#: More than there are clients, so that no request waits outside the batches.
MAX_ONGOING_REQUESTS = 256


class RayServe(OcrServer):
    """A replica for each op, and one for the ingress."""

    title = "Ray Serve, deployment handles"
    venv = "serve-ray"
    package = "ray"
    path = "/infer"
    tuning = (
        "`RAY_SERVE_ENABLE_HA_PROXY=1`, `RAY_SERVE_HAPROXY_NBTHREAD=1`, `RAY_SERVE_THROUGHPUT_OPTIMIZED=1`; a "
        "deployment for each op and one for HTTP, a replica each; the second op is given the response of the first, "
        f"not its value; `max_batch_size={DETECT_BATCH_SIZE}` and `{RECOGNISE_BATCH_SIZE}`, "
        f"`batch_wait_timeout_s={WAIT_S:g}`; raw bodies"
    )
    leftovers = ray_serve.RayServe.leftovers
    environ = ray_serve.RayServe.environ

    def texts(self, headers: dict[str, str], body: bytes) -> Sequence[str]:
        """Return the texts of the answer."""
        return list(json.loads(body)["texts"])


def main() -> None:
    """Serve the example."""
    import ray
    from ray import serve
    from starlette.requests import Request

    from .job import Detector, OcrJob, Recogniser

    port = int(sys.argv[2])
    shape = OcrJob().pages[0].shape
    options: dict[str, Any] = {
        "num_replicas": 1,
        "max_ongoing_requests": MAX_ONGOING_REQUESTS,
        "health_check_period_s": 60,
        "logging_config": {"enable_access_log": False},
    }

    @serve.deployment(ray_actor_options={"num_cpus": 1}, **options)
    class Detect:
        def __init__(self) -> None:
            self._detector = Detector()

        @serve.batch(max_batch_size=DETECT_BATCH_SIZE, batch_wait_timeout_s=WAIT_S)
        async def run(self, bodies: list[bytes]) -> list[dict[str, Any]]:
            return self._detector.run([np.frombuffer(body, np.uint8).reshape(shape) for body in bodies])

        async def __call__(self, body: bytes) -> dict[str, Any]:
            return await self.run(body)

    @serve.deployment(ray_actor_options={"num_cpus": 1}, **options)
    class Recognise:
        def __init__(self) -> None:
            self._recogniser = Recogniser()

        @serve.batch(max_batch_size=RECOGNISE_BATCH_SIZE, batch_wait_timeout_s=WAIT_S)
        async def run(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
            texts = self._recogniser.run(found)
            return [{"texts": own, "boxes": each["boxes"].tolist()} for own, each in zip(texts, found, strict=True)]

        async def __call__(self, found: dict[str, Any]) -> dict[str, Any]:
            return await self.run(found)

    @serve.deployment(ray_actor_options={"num_cpus": 0}, **options)
    class Ingress:
        def __init__(self, detect: Any, recognise: Any) -> None:
            self._detect, self._recognise = detect, recognise

        async def __call__(self, request: Request) -> dict[str, Any]:
            return await self._recognise.remote(self._detect.remote(await request.body()))

    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=256 << 20, _temp_dir=os.environ["TMPDIR"])
    serve.start(http_options={"host": "127.0.0.1", "port": port, "access_log": False})
    serve.run(Ingress.bind(Detect.bind(), Recognise.bind()), route_prefix="/infer")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's own end takes 15 s; the benchmark ends all processes
    signal.pause()


if __name__ == "__main__":
    main()
