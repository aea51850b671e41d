"""The pages at / and /images, and the figures of the former: plain HTML with a script, and nothing from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ascend_parallel.errors import AscendParallelError
from ascend_parallel.serving.images.image_service import ImageService
from ascend_parallel.serving.model_stats import TIME_BUCKETS_S
from ascend_parallel.serving.repository import Repository
from ascend_parallel.serving.rest.metadata import describe_model
from ascend_parallel.serving.served import Served

_FOLDER = Path(__file__).parents[1] / "page"
#: Path -> the file and its type. They need no token: the page asks for it itself.
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/common.js": ("common.js", "text/javascript"),
    "/images": ("images.html", "text/html"),
    "/images.css": ("images.css", "text/css"),
    "/images.js": ("images.js", "text/javascript"),
}
#: The page runs its own script only, and sends nothing to other servers.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_routes() -> list[Route]:
    """Return the routes of the pages' files."""
    return [Route(path, _answer_file, methods=["GET"]) for path in FILES]


async def _answer_file(request: Request) -> Response:
    name, media_type = FILES[request.scope["path"]]
    return Response((_FOLDER / name).read_bytes(), media_type=media_type, headers=_HEADERS)


def describe_status(repository: Repository, images: ImageService) -> dict[str, Any]:
    """Return the figures of all models since they were loaded; the page shows what has changed.

    The ops of a pipeline follow it.
    """
    return {
        "time_s": time.monotonic(),
        "ready": repository.is_ready,
        "bounds_s": TIME_BUCKETS_S,
        "draws_images": any(True for _ in images),
        "models": [described for model in repository for described in _describe_with_parts(model, repository)],
    }


def _describe_with_parts(model: Served, repository: Repository) -> Iterator[dict[str, Any]]:
    versions = repository.versions(model.name)
    kind = "pipeline" if model.parts else "model"
    yield {"kind": kind, **_describe(model, versions)}
    for op in model.parts:
        yield {"kind": "op", **_describe(op, versions)}


def _describe(model: Served, versions: list[str]) -> dict[str, Any]:
    stats = model.stats
    about = describe_model(model, versions)
    return {
        "name": model.name,
        "version": model.version,
        "state": model.state,
        "reason": model.reason,
        "ready": model.is_ready,
        "inputs": about["inputs"],
        "waiting": model.waiting,
        "running": model.running,
        "successes": stats.successes,
        "failures": sum(stats.failures.values()),
        "rows": stats.rows,
        "batches": stats.batches,
        "request_counts": stats.request_s.counts,
        "workers": _describe_workers(model),
    }


def _describe_workers(model: Served) -> dict[str, Any]:
    if not model.shows_workers:
        return {}
    try:
        workers = model.worker_stats()["workers"]
    except AscendParallelError:  # it is not loaded
        return {}
    instances = max(1, model.capacity // max(1, len(workers)))
    shown = ("state", "busy_s", "rows", "restarts")
    return {
        label: {"instances": instances, **{name: worker[name] for name in shown}} for label, worker in workers.items()
    }
