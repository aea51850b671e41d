"""One Ray cluster of three nodes for all tests of this folder; each node has two devices, as the resource NPU."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

#: The last two let Ray notice a node's death in two seconds rather than in fifteen.
ENVIRON = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_period_ms": "400",
    "RAY_health_check_failure_threshold": "4",
}


class TestCluster:
    """The cluster; see ``nodes.py``.

    Attributes:
        models: the folder of the tests' own models.
        cache: where hosts keep models that were sent to them.
        address: for drivers.
    """

    __test__ = False
    models = Path(__file__).parent

    def __init__(self, folder):
        self.cache = Path(folder) / "cache"
        self._process = subprocess.Popen(
            [sys.executable, str(self.models / "nodes.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = json.loads(self._process.stdout.readline())
        self._others = []

    def _ask(self, command):
        print(command, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def add(self):
        """Add a node."""
        self._others.append(self._ask("add"))

    def remove(self):
        """End a node other than the head, as a crash does."""
        self._ask(f"remove {self._others.pop()}")

    def restore(self):
        """Bring the cluster back to three nodes."""
        while len(self._others) > 2:
            self.remove()
        while len(self._others) < 2:
            self.add()
        self._ask("wait")

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def _cluster():
    # Not in TMPDIR: a socket's path has at most 107 bytes, and Ray's own names take 70.
    folder = tempfile.mkdtemp(prefix="ap-", dir="/tmp")
    environ = {**ENVIRON, "XDG_CACHE_HOME": f"{folder}/cache", "RAY_TMPDIR": folder}
    before = {name: os.environ.get(name) for name in environ}
    os.environ.update(environ)
    made = TestCluster(folder)
    yield made
    made.close()
    shutil.rmtree(folder, ignore_errors=True)
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture
def cluster(_cluster):
    """The cluster with its three nodes, whatever the test before did to it; this program is not connected."""
    _cluster.restore()
    yield _cluster
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized(), "the runner was to leave the cluster"
