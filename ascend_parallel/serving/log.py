"""The server's logger."""

from __future__ import annotations

import logging

logger = logging.getLogger("ascend_parallel.serving")
