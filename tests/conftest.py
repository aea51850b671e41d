"""Fixtures for all tests, and a temporary folder for the session, in which no test leaves anything."""

import gc
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
import tested_on
from faults import procs
from models import FOLDER_PREFIX

# ---- the session's temporary folder


LEFT = pytest.StashKey[list[str]]()
#: Tests may leave the models that all of them share, and the folder that importing parts of torch makes.
ALLOWED = (FOLDER_PREFIX, "torchinductor_")


def pytest_configure(config):
    """Let this session and what it starts use a temporary folder of their own.

    pytest's own folders stay where they are kept after failures: pytest-of-USER, of which it keeps three.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime from 1.29 on writes a file .ses there, and uploads
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="ascend-parallel-tests-")
    if os.environ.get("TESTED_ON"):
        config.pluginmanager.register(tested_on.Recorder(Path(os.environ["TESTED_ON"])))


@pytest.hookimpl(trylast=True)  # after the ends of the session's fixtures
def pytest_sessionfinish(session):
    """Fail the session if tests have left anything in the folder."""
    left = [path.name for path in Path(tempfile.gettempdir()).iterdir() if not path.name.startswith(ALLOWED)]
    session.config.stash[LEFT] = sorted(left)
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    """Name what was left."""
    left = config.stash.get(LEFT, [])
    if left:
        terminalreporter.section("left in the temporary folder", red=True)
        terminalreporter.line("\n".join(left))


def pytest_unconfigure():
    """Remove the folder, whatever the session came to."""
    shutil.rmtree(tempfile.gettempdir())


# ---- fixtures


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
