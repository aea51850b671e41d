"""An ONNX Runtime session in a worker of a pool: made once by the initializer, used by every task."""

from __future__ import annotations

from typing import Any

import onnxruntime

_loaded: dict[str, Any] = {}


def open_session(model: str, threads: int) -> onnxruntime.InferenceSession:
    """Return a session that computes with so many threads."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def load(model: str) -> None:
    """Make the session of this process; its core is its own, so one thread."""
    _loaded["session"] = open_session(model, 1)


def run(feeds: dict[str, Any]) -> Any:
    """Run the session of this process; one array."""
    return _loaded["session"].run(None, feeds)[0]


def load_and_run(model: str, feeds: dict[str, Any]) -> Any:
    """The same, for pools without initializers: the first task of a process makes the session."""
    if model not in _loaded:
        _loaded[model] = open_session(model, 1)
    return _loaded[model].run(None, feeds)[0]
