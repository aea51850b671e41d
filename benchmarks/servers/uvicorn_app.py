"""A plain ASGI app under uvicorn, with the model in its process: what one writes without a server for models."""

from __future__ import annotations

import os
import sys
from typing import Any

from .job import WORKERS, Job
from .server import Server

JOB_VARIABLE = "SERVING_JOB"


class Uvicorn(Server):
    """Two processes with a session each; the event loop runs the model itself, one request at a time."""

    title = "uvicorn, model in the process"
    venv = "serve-uvicorn"
    package = "uvicorn"
    tuning = "a bare ASGI app on uvloop and httptools, `workers=2`, no access log; raw bodies; no batches"


class App:
    """The app; the session is opened when the process starts."""

    def __init__(self) -> None:
        self._job = Job(os.environ[JOB_VARIABLE])
        self._session = self._job.open_session()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer a request with the output's bytes."""
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        message = await receive()
        body = message["body"]
        if message["more_body"]:
            parts = [body]
            while message["more_body"]:
                message = await receive()
                parts.append(message["body"])
            body = b"".join(parts)
        output = self._job.run(self._session, [self._job.unpack(body)])[0].tobytes()
        headers = [(b"content-length", b"%d" % len(output)), (b"content-type", b"application/octet-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": output})

    @staticmethod
    async def _live(receive: Any, send: Any) -> None:
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return


def main() -> None:
    """Serve the job that the arguments name."""
    import uvicorn

    os.environ[JOB_VARIABLE] = sys.argv[1]
    uvicorn.run(
        f"{__package__}.uvicorn_app:App",
        factory=True,
        port=int(sys.argv[2]),
        workers=WORKERS,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
