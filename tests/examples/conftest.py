"""Makes the modules of examples/sd21 importable, which are scripts and not in a package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SD21 = Path(__file__).resolve().parents[2] / "examples" / "sd21"
for folder in (SD21, Path(__file__).resolve().parents[1]):
    sys.path.append(str(folder))  # for test modules that import them at the top; also for tests/models.py


@pytest.fixture(scope="session", autouse=True)
def sd21_on_path() -> Iterator[Path]:
    """The folder examples/sd21, importable during these tests."""
    sys.path.insert(0, str(SD21))
    yield SD21
    sys.path.remove(str(SD21))
