"""LitServe: FastAPI processes that answer HTTP, worker processes that run the model."""

import sys
from typing import Annotated, Any

import numpy as np

from .job import MAX_BATCH_SIZE, WORKERS, Job
from .server import Server

#: Without a window LitServe batches what already waits, and polls for it.
WINDOW_S = 0.0005


class LitServe(Server):
    """Two workers; ZeroMQ between them and the processes of the API."""

    title = "LitServe"
    venv = "serve-litserve"
    package = "litserve"
    path = "/predict"
    ready_path = "/health"
    tuning = (
        f"`workers_per_device={WORKERS}`, `max_batch_size={MAX_BATCH_SIZE}`, `batch_timeout={WINDOW_S}` (s), "
        "`fast_queue=True`; raw bodies"
    )


if __name__ in {"__main__", "__mp_main__"}:  # in LitServe's own Python; its workers import this file again
    import litserve
    from fastapi import Body, Response
    from pydantic import AfterValidator

    job = Job(sys.argv[1])

    class Quiet(bytes):
        """A body that LitServe's debug log, which formats every request even where it is off, does not spell out."""

        def __str__(self) -> str:
            return f"{len(self)} bytes"

    Raw = Annotated[bytes, Body(media_type="application/octet-stream"), AfterValidator(Quiet)]

    class Api(litserve.LitAPI):
        """Runs in a worker."""

        def setup(self, device: str) -> None:
            """Open the session."""
            self._session = job.open_session()

        def decode_request(self, request: Raw) -> dict[str, np.ndarray]:
            """Return the inputs of a raw body."""
            return job.unpack(request)

        def batch(self, inputs: list[Any]) -> list[Any]:
            """Leave the joining of rows to the job."""
            return inputs

        def predict(self, x: list[Any]) -> list[Any]:
            """Return the outputs of a batch."""
            return job.run(self._session, x)

        def unbatch(self, output: list[Any]) -> list[Any]:
            """Return the outputs, which are separate already."""
            return output

        def encode_response(self, output: np.ndarray) -> Response:
            """Return the output's bytes."""
            return Response(output.tobytes(), media_type="application/octet-stream")


def main() -> None:
    """Serve the job that the arguments name."""
    server = litserve.LitServer(
        Api(max_batch_size=MAX_BATCH_SIZE, batch_timeout=WINDOW_S),
        accelerator="cpu",
        workers_per_device=WORKERS,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False, access_log=False
    )


if __name__ == "__main__":
    main()
