"""Container: what of the host's driver has to be mounted."""

from __future__ import annotations

from collections.abc import Iterator

from .context import Context
from .finding import Finding, failure, ok, warning

TITLE = "Container"
#: The driver's libraries, without which nothing works, and what they are mounted with.
LIBRARIES, DRIVER = "/usr/local/Ascend/driver/lib64", "/usr/local/Ascend/driver"
#: What else a container needs of the host's driver, for npu-smi.
TOOLS = ("/usr/local/dcmi", "/usr/local/bin/npu-smi", "/etc/ascend_install.info")


def check(context: Context) -> Iterator[Finding]:
    """Yield the findings of this layer; none outside of a container."""
    if not context.host.is_container:
        return
    yield ok("container", "this process runs in a container")
    if context.has_ascend:
        yield check_mount(context, DRIVER, LIBRARIES)
        yield from (check_mount(context, path, path) for path in TOOLS)


def check_mount(context: Context, path: str, needed: str) -> Finding:
    """Check one mount of the host's driver, by a file or folder in it that is needed."""
    if context.host.exists(needed):
        return ok(path, "it is mounted")
    report = failure if needed == LIBRARIES else warning
    return report(path, f"there is no {needed}", f"start the container with -v {path}:{path}")
