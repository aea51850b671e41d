"""Container: what of the host's driver has to be mounted."""

from __future__ import annotations

from collections.abc import Iterator

from .context import Context
from .finding import Finding, failure, ok, warning

TITLE = "Container"
#: What a container needs of the host's Ascend driver -> whether nothing works without it.
MOUNTS = {
    "/usr/local/Ascend/driver/lib64": True,
    "/usr/local/dcmi": False,
    "/usr/local/bin/npu-smi": False,
    "/etc/ascend_install.info": False,
}


def check(context: Context) -> Iterator[Finding]:
    """Yield the findings of this layer; none outside of a container."""
    if not context.host.is_container:
        return
    yield ok("container", "this process runs in a container")
    if context.has_ascend:
        yield from (check_mount(context, path) for path in MOUNTS)


def check_mount(context: Context, path: str) -> Finding:
    """Check one mount of the host's driver."""
    if context.host.exists(path):
        return ok(path, "it is mounted")
    advice = f"start the container with -v {path}:{path}"
    report = failure if MOUNTS[path] else warning
    return report(path, "it is not there", advice)
