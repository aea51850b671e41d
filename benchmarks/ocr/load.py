"""The load: wrk sends all pages in turn."""

from __future__ import annotations

from pathlib import Path

from servers.load import format_script
from servers.process import RunningServer

from .server import OcrServer

#: What goes before the end of the usual script: the requests are formatted once, and sent in turn.
_REQUESTS = """
local requests = {}
function init(arguments)
    for number = 0, %d do
        local file = assert(io.open(string.format("%s%%d", number), "rb"))
        requests[number] = wrk.format("POST", nil, nil, file:read("*a"))
        file:close()
    end
end
local next = 0
function request()
    next = (next + 1) %% %d
    return requests[next]
end
"""


def write_script(running: RunningServer, folder: Path) -> Path:
    """Write the requests of all pages, and wrk's script; return the script's file."""
    server = running.server
    assert isinstance(server, OcrServer)
    pages = server.job.pages
    for number, page in enumerate(pages):
        (folder / f"body{number}").write_bytes(server.body_of(page))
    requests = _REQUESTS % (len(pages) - 1, folder / "body", len(pages))
    script = folder / "request.lua"
    script.write_text(format_script(folder / "body0", server.headers()) + requests)
    return script
