"""What clients, logs and metrics tell of an error, whichever protocol it goes over."""

from __future__ import annotations

from ascend_parallel.errors import AscendParallelError


def text_of(error: Exception) -> str:
    """Return the message of an error of ours; of a fault, only its kind: the rest is in the log."""
    return str(error) if isinstance(error, AscendParallelError) else f"the server failed: {type(error).__name__}"


def status_of(error: BaseException) -> int:
    """Return the HTTP status of an error."""
    return error.http_status if isinstance(error, AscendParallelError) else 500


def reason_of(error: BaseException) -> str:
    """Return the label of a failure in the metrics, one of ``model_stats.FAILURES``."""
    if not isinstance(error, Exception):
        return "canceled"
    status = status_of(error)
    return {504: "timeout", 503: "rejected"}.get(status, "invalid" if status < 500 else "error")
