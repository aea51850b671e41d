"""Kernel and limits: what workers and shared memory need of the system."""

from __future__ import annotations

import mmap
import os
import platform
import re
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ascend_parallel.devices import usable_cores
from ascend_parallel.worker.memory import create_memfd

from .context import Context
from .finding import Finding, failure, ok, warning

TITLE = "Kernel and limits"
#: A runner needs a few descriptors for each worker, and some for its memory.
MIN_DESCRIPTORS = 1024
#: Python, numpy and a runtime take so much for each worker.
MIN_MEMORY_BYTES = 1 << 30
MIN_PROCESSES = 256
TRIAL_BYTES = 1 << 20
GIB = 1 << 30


def check(context: Context) -> Iterator[Finding]:
    """Yield the findings of this layer."""
    yield ok("system", f"{platform.system()} {platform.release()} {platform.machine()}, {usable_cores()} usable cores")
    yield check_memfd()
    yield check_eventfd()
    yield check_descriptors()
    yield check_memory(context)
    yield check_processes(context)
    yield check_temporary_files()


def check_memfd() -> Finding:
    """Make, map and write a memory file, as the arrays of a call need one."""
    try:
        fd = create_memfd(TRIAL_BYTES)
        try:
            with mmap.mmap(fd, TRIAL_BYTES) as mapped:
                mapped[-1] = 1
        finally:
            os.close(fd)
    except OSError as error:
        advice = "allow memfd_create in the seccomp profile of the container, or use workers='threads'"
        return failure("shared memory", f"memfd_create is refused ({error.strerror})", advice)
    return ok("shared memory", "memfd works")


def check_eventfd() -> Finding:
    """Make an eventfd, which wakes the thread that waits for replies."""
    try:
        os.close(os.eventfd(0))
    except OSError as error:
        advice = "allow eventfd2 in the seccomp profile of the container, or use workers='threads'"
        return failure("eventfd", f"it is refused ({error.strerror})", advice)
    return ok("eventfd", "it works")


def check_descriptors() -> Finding:
    """Check how many descriptors a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MIN_DESCRIPTORS:
        return ok("open files", f"{'any number' if soft == resource.RLIM_INFINITY else soft} per process")
    return warning("open files", f"{soft} per process; the system allows {hard}", f"run ulimit -n {hard}")


def check_memory(context: Context) -> Finding:
    """Check the memory that this process may take: the machine's, and its container's limit."""
    free = _available_bytes(context)
    limit = _container_bytes(context)
    if free is None:
        return warning("memory", "/proc/meminfo cannot be read", "mount /proc in the container")
    seen = f"{free / GIB:.1f} GiB available"
    if limit is not None:
        used, most = limit
        seen += f"; the container may take {most / GIB:.1f} GiB and has {used / GIB:.1f}"
        free = min(free, most - used)
    if free < MIN_MEMORY_BYTES:
        return warning("memory", seen, "free memory, or give the container more (docker run --memory)")
    return ok("memory", seen)


def _available_bytes(context: Context) -> int | None:
    found = re.search(r"MemAvailable:\s+(\d+) kB", context.host.read("/proc/meminfo"))
    return int(found[1]) << 10 if found else None


def _container_bytes(context: Context) -> tuple[int, int] | None:
    """Return the memory that a container uses and may use; None if there is no limit."""
    for used, most in (
        ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.max"),
        ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ):
        texts = context.host.read(used), context.host.read(most)
        if all(text.isdecimal() for text in texts) and int(texts[1]) < 1 << 60:  # version 1 writes 2**63 for "none"
            return int(texts[0]), int(texts[1])
    return None


def check_processes(context: Context) -> Finding:
    """Check how many processes and threads may run; each worker has a dozen."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    texts = context.host.read("/sys/fs/cgroup/pids.max"), context.host.read("/sys/fs/cgroup/pids/pids.max")
    limits = [int(text) for text in texts if text.isdecimal()]
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    if limits and min(limits) < MIN_PROCESSES:
        advice = "allow more (docker run --pids-limit, ulimit -u): each worker has a dozen threads"
        return warning("processes", f"at most {min(limits)} processes and threads", advice)
    return ok("processes", f"at most {min(limits)} processes and threads" if limits else "no limit")


def check_temporary_files() -> Finding:
    """Write a file where compilers and converters put theirs."""
    folder = Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\1" * TRIAL_BYTES)
            file.flush()
    except OSError as error:
        advice = "free space there, or set TMPDIR to another folder"
        return failure("temporary files", f"{folder} cannot be written to ({error.strerror})", advice)
    status = os.statvfs(folder)
    return ok("temporary files", f"{status.f_bavail * status.f_frsize / GIB:.1f} GiB free in {folder}")
