"""Lets tests import the benchmarks, which are scripts and in no package."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT / "benchmarks", ROOT / "tests"):
    sys.path.append(str(folder))


@pytest.fixture
def mslite():
    """Return the Python that has MindSpore Lite: skips, or fails in CI, where it is missing."""
    import models

    return models.mslite_python()
