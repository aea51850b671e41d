"""The routes of the system shared memory extension."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ascend_parallel.errors import UsageError
from ascend_parallel.serving.service import Service

from .bodies import read_body, to_json

_ALL = "/v2/systemsharedmemory"
_ONE = f"{_ALL}/region/{{region}}"


def shared_memory_routes(service: Service) -> list[Route]:
    """Return the routes."""

    async def show(request: Request) -> Response:
        return to_json(service.shared_memory.describe(request.path_params.get("region", "")))

    async def register(request: Request) -> Response:
        body = await read_body(request)
        place = _read(body, "key", str, "a string"), _read_size(body, "offset"), _read_size(body, "byte_size")
        service.shared_memory.register(request.path_params["region"], *place)
        return to_json({})

    async def unregister(request: Request) -> Response:
        await read_body(request)
        service.shared_memory.unregister(request.path_params.get("region", ""))
        return to_json({})

    return [
        Route(f"{_ALL}/status", show, methods=["GET"]),
        Route(f"{_ONE}/status", show, methods=["GET"]),
        Route(f"{_ONE}/register", register, methods=["POST"]),
        Route(f"{_ONE}/unregister", unregister, methods=["POST"]),
        Route(f"{_ALL}/unregister", unregister, methods=["POST"]),
    ]


def _read_size(body: dict[str, Any], name: str) -> int:
    size: int = _read(body, name, int, "a whole number of bytes")
    return size


def _read(body: dict[str, Any], name: str, kind: type, expected: str) -> Any:
    """Return a value of the body; the offset may be missing."""
    value = body.get(name, 0 if name == "offset" else None)
    if type(value) is not kind:
        shown = "missing" if value is None else f"{value!r:.200}"
        raise UsageError(f"{name} is {shown}; expected {expected}")
    return value
