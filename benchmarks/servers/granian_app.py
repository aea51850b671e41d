"""A bound: HTTP alone in granian, a server in Rust, by its own interface RSGI, which costs less than ASGI."""

from __future__ import annotations

import os
import sys
from typing import Any

from .job import Job
from .server import Server

JOB_VARIABLE = "SERVING_JOB"
_output = b""


class Granian(Server):
    """HTTP alone: every request gets an answer of the right size at once, and no model runs."""

    title = "bare: HTTP only, granian"
    venv = "serve-uvicorn"
    package = "granian"
    tuning = "RSGI on uvloop, one worker of one thread; answers at once; raw bodies"


async def app(scope: Any, protocol: Any) -> None:
    """Answer a request."""
    await protocol()
    protocol.response_bytes(200, [], _output)


def load() -> Any:
    """Prepare the answer in the worker's process, and return the app."""
    global _output
    _output = Job(os.environ[JOB_VARIABLE]).expected.tobytes()
    return app


def main() -> None:
    """Serve the job that the arguments name."""
    from granian import Granian as GranianServer
    from granian.constants import Interfaces, Loops

    os.environ[JOB_VARIABLE] = sys.argv[1]
    server = GranianServer(
        f"{__package__}.granian_app:app",
        address="127.0.0.1",
        port=int(sys.argv[2]),
        interface=Interfaces.RSGI,
        loop=Loops.uvloop,
        log_enabled=False,
    )
    server.serve(target_loader=load, wrap_loader=False)


if __name__ == "__main__":
    main()
