"""What the context of an RPC tells."""

from __future__ import annotations

import time
from typing import Any

from ascend_parallel.serving.request import INF


def metadata_of(context: Any) -> dict[str, str | bytes]:
    """Return the metadata that a client has sent; keys are in lower case."""
    return dict(context.invocation_metadata() or ())


def deadline_of(context: Any) -> float:
    """Return the deadline that the client has set, by ``time.monotonic``; infinite for none."""
    left_s = context.time_remaining()
    return INF if left_s is None else time.monotonic() + left_s
