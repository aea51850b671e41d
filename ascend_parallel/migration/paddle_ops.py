"""An op of Paddle Serving as an op of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .paddle_model import Settings, read_model
from .paddle_settings import LOCAL, OP, is_right, note_settings
from .paddle_source import PaddleConfig

#: What an op's constructor may say in the file of Python, in place of the configuration, and is read here.
_ARGUMENTS = ("concurrency", "timeout", "retry", "batch_size", "auto_batching_timeout", "fetch_list")


def read_op(config: PaddleConfig, op: str, arguments: Mapping[str, Any], processes: int) -> Settings:
    """Return the settings of an op but for its Python and what it reads.

    Args:
        config: the configuration.
        op: the name of the op.
        arguments: those of its constructor, which win over the configuration.
        processes: in how many processes each of its own runs again.
    """
    path = ("op", op)
    note_settings(config, path, OP)
    note_settings(config, (*path, "local_service_conf"), LOCAL)
    told = {name: config.get((*path, name)) for name in _ARGUMENTS}
    told["fetch_list"] = config.get((*path, "local_service_conf", "fetch_list"), told["fetch_list"])
    told |= {name: value for name, value in arguments.items() if name in _ARGUMENTS and is_right(name, value)}
    found = read_model(config, op)
    concurrency = (told["concurrency"] or 1) * processes
    if told["concurrency"] is not None or processes > 1:
        found["concurrency"] = concurrency
    found |= _read_times(told)
    if found.get("path") and told["fetch_list"]:
        found["fetch_list"] = told["fetch_list"]
    batching = _read_batching(told)
    if batching and found.get("path"):
        found["batching"] = batching
    return found


def _read_times(told: Mapping[str, Any]) -> Settings:
    """Return the timeout, and the further tries, which there are only with one."""
    timeout = told["timeout"]
    if not isinstance(timeout, int | float) or timeout <= 0:
        return {}
    tries = told["retry"] if isinstance(told["retry"], int) else 1
    return {"timeout_ms": timeout} | ({"retry": tries - 1} if tries > 1 else {})


def _read_batching(told: Mapping[str, Any]) -> Settings:
    size, wait_ms = told["batch_size"], told["auto_batching_timeout"]
    if size is None:
        return {}
    is_waiting = isinstance(wait_ms, int | float) and wait_ms > 0 and size != 1
    return {"max_batch_size": size} | ({"max_queue_delay_ms": wait_ms} if is_waiting else {})
