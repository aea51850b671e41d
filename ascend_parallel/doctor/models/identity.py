"""A model that returns its input, for the measurement of the transport; Python 3.7 runs it, too."""

from typing import Any


def make(device: str) -> Any:
    """Return the model."""
    return lambda arrays: {"y": arrays["x"]}
