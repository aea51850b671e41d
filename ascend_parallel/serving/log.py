"""The server's log: lines for people, or a JSON object a line, on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time

logger = logging.getLogger("ascend_parallel.serving")


def configure_logging(log_format: str) -> None:
    """Have the server and uvicorn log to stderr in this format, "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter("%(asctime)s %(message)s"))
    for name, level in (("ascend_parallel.serving", "INFO"), ("uvicorn.error", "ERROR"), ("uvicorn.access", "INFO")):
        target = logging.getLogger(name)
        target.handlers[:] = [handler]
        target.setLevel(level)
        target.propagate = False


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)
