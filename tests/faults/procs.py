"""What the tests ask the system: which processes, descriptors and mappings there are."""

import contextlib
import os
import select
import time
from pathlib import Path

WORKER_PROGRAM = "ascend_parallel/worker/__main__.py"
#: Where the system gives no event to wait on, it is asked again after so long.
_POLL_S = 0.01


def wait_until(condition, what: str, timeout_s: float = 10.0):
    """Return the first true value of ``condition()``; for what the system has no event for."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(_POLL_S)
    return value


def children(pid: int | None = None) -> list[int]:
    """Return the workers among the children of a process, this one by default; zombies do not count."""
    found = []
    for path in Path(f"/proc/{pid or os.getpid()}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in path.read_text().split()]
    return [child for child in found if is_worker(child)]


def is_worker(pid: int) -> bool:
    """Whether a process runs the worker's program; a zombie has no command line any more."""
    try:
        return WORKER_PROGRAM.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


class Watch:
    """Processes to be seen ending; by descriptor, as a number may be used again."""

    def __init__(self, pids):
        self._fds = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._fds[pid] = os.pidfd_open(pid)

    def wait_gone(self, timeout_s: float) -> None:
        """Return when all have ended; fail where one is there after the timeout."""
        deadline_s = time.monotonic() + timeout_s
        left = []
        for pid, fd in self._fds.items():
            ended = select.select([fd], [], [], max(0.0, deadline_s - time.monotonic()))[0]
            os.close(fd)
            if not ended:
                left.append(pid)
        self._fds = {}
        assert not left, f"processes {left} are still there after {timeout_s:g} s"


def open_fds(pid: int | str = "self") -> int:
    """Return how many descriptors a process has open, this one by default."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def mapped_segments() -> int:
    """Return how many segments of the package are mapped in this process."""
    return Path("/proc/self/maps").read_text().count("memfd:ascend_parallel")


def _segments() -> dict[int, os.stat_result]:
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "memfd:ascend_parallel" in os.readlink(path):
                found[path.stat().st_ino] = path.stat()
    return found


def shared_bytes() -> int:
    """Return the memory that the package's segments take: pages that were written, not what is mapped."""
    return sum(told.st_blocks * 512 for told in _segments().values())


def segment_sizes() -> dict[int, int]:
    """Return the length in bytes of each segment of this process."""
    return {number: told.st_size for number, told in _segments().items()}


def rss_bytes(pid: int) -> int:
    """Return the memory of a process's own, without what it shares."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def pss_bytes(pid: int) -> int:
    """Return a process's memory, each page that it shares with others counted by its share."""
    (line,) = [line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) << 10
