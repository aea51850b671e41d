"""The report in Markdown, to be pasted into an issue: without host names, user names and private paths."""

from __future__ import annotations

import getpass
import html
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from .finding import FAILURE, OK, Finding, Layer

__all__ = ["hide_private", "to_markdown"]

#: Paths that are the same on every machine, and tell what is wrong.
_PUBLIC = (
    "/dev/",
    "/proc/",
    "/sys/",
    "/usr/local/Ascend/",
    "/usr/local/dcmi",
    "/usr/local/bin/npu-smi",
    "/etc/ascend_",
)
_PATH = re.compile(r"(?<![\w.~])(?:/[\w.@+~-]+)+/?")
_STATES = {OK: "ok", FAILURE: "**FAILURE**"}
#: A user name that stands in many texts hides nothing.
_COMMON_NAMES = {"root", "user", "admin", "ubuntu"}
_MIN_NAME_CHARS = 3


def to_markdown(layers: Sequence[Layer], devices: str) -> str:
    """Return the report.

    Args:
        layers: what was found.
        devices: the devices that were examined.
    """
    parts = ["# ascend-parallel doctor", f"Devices: {devices}"]
    for layer in layers:
        rows = [_row(finding) for finding in layer.findings]
        parts += [f"## {layer.title}", "\n".join(["| | check | seen | to do |", "|---|---|---|---|", *rows])]
    details = [_details(finding) for layer in layers for finding in layer.findings if finding.data.get("log")]
    if details:
        parts += ["## Output of workers and tools", *details]
    return "\n\n".join(parts) + "\n"


def _row(finding: Finding) -> str:
    state = _STATES.get(finding.state, f"**{finding.state}**")
    cells = (_escape(text) for text in (finding.check, finding.seen, finding.advice))
    return f"| {state} | {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Return text for a cell of a table: nothing in it is taken for Markdown or HTML."""
    plain = html.escape(" ".join(hide_private(text).split()), quote=False)
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", plain)


def _details(finding: Finding) -> str:
    lines = (hide_private(line).replace("```", "'''") for line in finding.data["log"])
    return f"{_escape(finding.check)}:\n\n```text\n" + "\n".join(lines) + "\n```"


def hide_private(text: str) -> str:
    """Return a text without the machine's name, the user's name, and the folders of private paths."""
    text = _PATH.sub(lambda found: found[0] if found[0].startswith(_PUBLIC) else f".../{Path(found[0]).name}", text)
    for name, instead in ((platform.node(), "HOST"), (_user(), "USER")):
        for word in (name, name.partition(".")[0]):  # the whole name first
            if len(word) >= _MIN_NAME_CHARS and word not in _COMMON_NAMES:
                text = re.sub(rf"\b{re.escape(word)}\b", instead, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""
