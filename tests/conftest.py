"""Fixtures for all tests."""

import gc
import threading

import pytest
from faults import procs


@pytest.fixture
def leaves_nothing(request):
    """Check that a test leaves this process as it found it: no worker, descriptor, shared memory or thread more.

    The marker ``may_lose_fds(count)`` is for tests whose interrupts may hit between the system call that opens a
    descriptor and the assignment of its number, where no Python code can save it.
    """
    gc.collect()
    marker = request.node.get_closest_marker("may_lose_fds")
    before = procs.open_fds() + (marker.args[0] if marker else 0)
    yield
    gc.collect()
    # Some ends come a moment after the runner's close has returned: the threads that waited for the processes.
    procs.wait_until(lambda: not procs.children(), "all workers gone", 5)
    procs.wait_until(lambda: not _own_threads(), "all threads of the package ended", 5)
    procs.wait_until(lambda: procs.open_fds() <= before, "all descriptors closed", 5)
    assert procs.mapped_segments() == 0


def _own_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ascend-parallel")]
