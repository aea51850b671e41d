"""The server's log: lines for people, or a JSON object a line, on stderr."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
import time

logger = logging.getLogger("ascend_parallel.serving")
logger.addHandler(logging.NullHandler())  # without a server, nothing is printed unless the program asks for it
#: Stands before the lines of a worker's traceback: the server's own begin at the margin.
_INDENT = "    | "
access_logger = logging.getLogger("ascend_parallel.serving.access")


def configure_logging(log_format: str) -> None:
    """Have the server and uvicorn log to stderr in this format, "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter("%(asctime)s %(message)s"))
    for name, level in (("ascend_parallel.serving", "INFO"), ("uvicorn.error", "ERROR")):
        target = logging.getLogger(name)
        target.handlers[:] = [handler]
        target.setLevel(level)
        target.propagate = False


def log_access(client: str, call: str, status: int | str, duration_s: float, request_id: str) -> None:
    """Log a request that was answered.

    Args:
        client: its address.
        call: what it asked for, such as "POST /v2/models/m/infer".
        status: of the response.
        duration_s: from its arrival to its response.
        request_id: the client's name of it; "" for none.
    """
    duration_ms = round(duration_s * 1e3, 3)
    fields = {"client": client, "call": call, "status": status, "duration_ms": duration_ms, "request_id": request_id}
    name = f" id {request_id}" if request_id else ""
    access_logger.info('%s - "%s" %s %.1f ms%s', client, call, status, duration_ms, name, extra={"fields": fields})


class TextFormatter(logging.Formatter):
    """A line for people; a worker's traceback follows it, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        text = super().format(record)
        traceback = getattr(record, "fields", {}).get("traceback")
        return f"{text}\n{textwrap.indent(traceback.rstrip(), _INDENT)}" if traceback else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)
