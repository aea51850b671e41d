"""What the context of an RPC tells."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ascend_parallel.serving.request import INF

#: Of a client's name of a request, so much is kept.
_MAX_ID_CHARS = 128


def metadata_of(context: Any) -> dict[str, str | bytes]:
    """Return the metadata that a client has sent; keys are in lower case."""
    return dict(context.invocation_metadata() or ())


def read_request_id(metadata: Mapping[str, str | bytes]) -> str:
    """Return the client's name of its request, by the metadata ``x-request-id``; "" for none."""
    given = metadata.get("x-request-id", "")
    return given[:_MAX_ID_CHARS] if isinstance(given, str) else ""


def deadline_of(context: Any) -> float:
    """Return the deadline that the client has set, by ``time.monotonic``; infinite for none."""
    left_s = context.time_remaining()
    return INF if left_s is None else time.monotonic() + left_s
