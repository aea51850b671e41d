"""The OpenAPI description of the routes: openapi.yml, with what is known of this server."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ascend_parallel import __version__

_FILE = Path(__file__).with_name("openapi.yml")


@functools.cache
def describe_routes(*, has_token: bool) -> dict[str, Any]:
    """Return the description of all routes, for a server that asks for a token or not."""
    import yaml

    description: dict[str, Any] = yaml.safe_load(_FILE.read_text())
    description["info"]["version"] = __version__
    description["security"] = [{"token": []}] if has_token else []
    return description
