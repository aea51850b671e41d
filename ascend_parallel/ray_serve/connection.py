"""The cluster while an application is built: ``serve run`` builds it before it connects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ascend_parallel.cluster import ray_session


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster that the application is for, unless this program is connected.

    Of ``serve run``, it is the one of its option ``--address``; the connection is given up again, as the command makes
    its own. Else it is the one that Ray finds, and it is kept.

    Raises:
        UsageError: there is no such cluster.
    """
    import ray

    command = _options_of_command()
    is_temporary = not ray.is_initialized() and "address" in command
    if not ray.is_initialized():
        ray_session.connect(command.get("address"))
    try:
        yield
    finally:
        if is_temporary:
            ray_session.disconnect()


def has_working_dir() -> bool:
    """Return whether Ray gives the replicas a copy of a working directory."""
    import ray

    if ray.is_initialized():
        return "working_dir" in (ray.get_runtime_context().runtime_env or {})
    return bool(_options_of_command().get("working_dir"))


def _options_of_command() -> dict[str, Any]:
    """Return the options of the command of Ray Serve that calls ``build``; {} in other programs."""
    import click

    context = click.get_current_context(silent=True)
    return {} if context is None else dict(context.params)
