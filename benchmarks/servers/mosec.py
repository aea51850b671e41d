"""mosec: a server in Rust with workers in Python."""

from __future__ import annotations

import os
import sys
from typing import Any

from .job import MAX_BATCH_SIZE, WORKERS, Feeds, Job
from .server import Server

#: The shortest there is; a batch waits that long for more rows.
WAIT_MS = 1


class Mosec(Server):
    """Two workers that take batches of raw bodies."""

    title = "mosec"
    venv = "serve-mosec"
    package = "mosec"
    path = "/inference"
    tuning = (
        f"`num={WORKERS}`, `max_batch_size={MAX_BATCH_SIZE}`, `max_wait_time={WAIT_MS}` (ms, the shortest); raw bodies"
    )


def main() -> None:
    """Serve the job that the arguments name."""
    import mosec

    job = Job(sys.argv[1])
    os.environ.update(MOSEC_PORT=sys.argv[2], MOSEC_ADDRESS="127.0.0.1", MOSEC_LOG_LEVEL="warning")

    class Model(mosec.Worker):
        resp_mime_type = "application/octet-stream"

        def __init__(self) -> None:
            super().__init__()
            self._session = job.open_session()

        def deserialize(self, data: bytes) -> Feeds:
            return job.unpack(data)

        def forward(self, data: list[Feeds]) -> list[Any]:
            return job.run(self._session, data)

        def serialize(self, data: Any) -> bytes:
            return data.tobytes()

    server = mosec.Server()
    # Forked, so that the class may be local: mosec is not installed where this file's other class is used.
    server.append_worker(Model, num=WORKERS, max_batch_size=MAX_BATCH_SIZE, max_wait_time=WAIT_MS, start_method="fork")
    server.run()


if __name__ == "__main__":
    main()
