"""An ONNX Runtime session in a worker of a pool: the initializer creates it, and every task uses it."""

from __future__ import annotations

from typing import Any

import onnxruntime

_loaded: dict[str, Any] = {}


def open_session(model: str, threads: int) -> onnxruntime.InferenceSession:
    """Return a session with a number of threads."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def load(model: str) -> None:
    """Create the session of this process, with one thread, because the process has one core."""
    _loaded["session"] = open_session(model, 1)


def run(feeds: dict[str, Any]) -> Any:
    """Run the session of this process; return one array."""
    return _loaded["session"].run(None, feeds)[0]


def load_and_run(model: str, feeds: dict[str, Any]) -> Any:
    """The same for pools without initializers: the first task of a process creates the session."""
    if model not in _loaded:
        _loaded[model] = open_session(model, 1)
    return _loaded[model].run(None, feeds)[0]
