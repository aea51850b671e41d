"""The header x-request-id: a client's name of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: What may be in a log line and in a header of the response; of anything else, only such parts are kept.
_REFUSED = re.compile(rb"[^!-~]+")
_MAX_BYTES = 128


def read_request_id(headers: Mapping[bytes, bytes]) -> str:
    """Return the id by the header x-request-id, cut to printable characters; "" for none."""
    given = headers.get(b"x-request-id")
    return _REFUSED.sub(b"", given)[:_MAX_BYTES].decode() if given else ""
