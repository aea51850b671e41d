"""Makes the benchmarks importable, which are scripts and not in a package."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT / "benchmarks", ROOT / "tests"):
    sys.path.append(str(folder))


@pytest.fixture
def mslite():
    """Return the Python that has MindSpore Lite; if it is missing, skip the test, or fail in CI."""
    import models

    return models.mslite_python()
