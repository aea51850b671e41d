"""What a client is told of an error, whichever protocol it speaks."""

from __future__ import annotations

from ascend_parallel.errors import AscendParallelError


def text_of(error: Exception) -> str:
    """Return the message of an error of ours; of a fault, only its kind: the rest is in the log."""
    return str(error) if isinstance(error, AscendParallelError) else f"the server failed: {type(error).__name__}"
