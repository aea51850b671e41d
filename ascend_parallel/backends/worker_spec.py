"""What a worker is started with, and the limits that a backend keeps."""

from __future__ import annotations

from typing import Any, NamedTuple

#: ``max_restarts`` counts those of the last ten minutes: a service must survive one crash a week for years,
#: and must not restart a broken device for ever.
RESTART_WINDOW_S = 600.0


class WorkerSpec(NamedTuple):
    """What a worker is started with; a restart uses the same.

    Attributes:
        device: such as ``"ascend:0"``.
        label: the device, and the instance where the device has several workers: ``"cpu:0#1"``.
        python: the interpreter of a worker process.
        environ: the environment of a worker process.
        request: the build request of the wire format; see ``worker/building.py``.
    """

    device: str
    label: str
    python: str
    environ: dict[str, str]
    request: dict[str, Any]


class Limits(NamedTuple):
    """The times and numbers that a backend keeps; see ``ParallelPredictUtils``.

    Attributes:
        blames_device: whether a worker that dies while it runs a task counts against its device. It is False where
            the caller takes its tasks for the likelier cause, and counts itself.
    """

    build_timeout_s: float
    predict_timeout_s: float
    max_retries: int
    max_restarts: int
    blames_device: bool = True
