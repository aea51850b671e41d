"""The load: wrk on the same cores, and what it measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

from sides.cpu import spent_ms

from .process import RunningServer, server_times
from .server import ServerError

#: wrk gives up on an answer after this long, and counts it as an error.
TIMEOUT_S = 10
#: wrk sends the same request over and over, and prints what it counted as one line of JSON.
_SCRIPT = """
local file = assert(io.open("{body}", "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
{headers}
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '\\n{{"requests": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "errors": %d}}\\n',
        summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


class Sample(NamedTuple):
    """What one measurement found: requests a second, latencies, and the CPU time of the server for a request."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


def write_script(running: RunningServer, folder: Path) -> Path:
    """Write the server's request as wrk's script; return the file."""
    server = running.server
    body = folder / "body"
    body.write_bytes(server.body())
    script = folder / "request.lua"
    script.write_text(format_script(body, server.headers()))
    return script


def format_script(body: Path, headers: dict[str, str]) -> str:
    """Return wrk's script for a request, whose body is a file."""
    lines = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(it)}" for name, it in headers.items())
    return _SCRIPT.format(body=body, headers=lines)


def measure(running: RunningServer, script: Path, connections: int, seconds: int) -> Sample:
    """Send requests over a number of connections for some seconds; raises ServerError if one fails."""
    before = server_times()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s", f"-s{script}"]
    try:
        done = subprocess.run(
            [*command, running.url()], capture_output=True, text=True, timeout=seconds + 3 * TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise ServerError(f"wrk did not end in time with {running.server.title}") from error
    cpu_ms = spent_ms(before, server_times())
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise ServerError(f"wrk failed: {done.stderr or done.stdout}")
    counted = json.loads(lines[-1])
    if counted["errors"] or not counted["requests"]:
        raise ServerError(
            f"{running.server.title} failed {counted['errors']} of {counted['requests']} requests over {connections} "
            "connections"
        )
    return Sample(
        counted["requests"] / counted["duration_us"] * 1e6,
        counted["p50_us"] / 1e3,
        counted["p99_us"] / 1e3,
        cpu_ms * 1e3 / counted["requests"],
    )
