"""OpenAI's routes for pictures: the models, the drawing, and pictures by URL."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ascend_parallel.errors import NotFoundError
from ascend_parallel.serving.images.generation_request import read_request
from ascend_parallel.serving.images.image_model import ImageModel
from ascend_parallel.serving.images.image_service import ImageService

from .bodies import read_body, to_json
from .client_watch import ClientGoneError, until_disconnected
from .image_answer import PictureEvents, PictureList

#: Pictures are under it by names that nobody can guess: who has one needs no token.
PICTURES_PATH = "/v1/images/pictures/"
_PICTURE_HEADERS = {"cache-control": "private, max-age=3600, immutable", "x-content-type-options": "nosniff"}
#: nginx's status of a request whose client is gone; only the access log sees it.
_CLIENT_GONE = 499


class ImageRoutes:
    """The routes under /v1."""

    def __init__(self, images: ImageService) -> None:
        self._images = images

    def table(self) -> list[Route]:
        """Return all routes."""
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model}", self.model, methods=["GET"]),
            Route("/v1/images/generations", self.generate, methods=["POST"]),
            Route(PICTURES_PATH + "{picture}", self.picture, methods=["GET"]),
        ]

    async def models(self, request: Request) -> Response:
        """List the image models."""
        return to_json({"object": "list", "data": [_describe(model) for model in self._images]})

    async def model(self, request: Request) -> Response:
        """Describe an image model."""
        return to_json(_describe(self._images.find(request.path_params["model"])))

    async def generate(self, request: Request) -> Response:
        """Draw pictures."""
        body = read_request(await read_body(request))
        model = self._images.find(body.model)
        generation = await model.plan(body)
        if body.stream:
            return PictureEvents(model, generation, body)
        keeps = body.response_format == "url"
        pictures = PictureList(generation, (lambda png: self._keep(request, png)) if keeps else None)
        try:
            await until_disconnected(request.receive, model.draw(generation, pictures))
        except ClientGoneError:
            return Response(status_code=_CLIENT_GONE)
        return to_json(pictures.describe())

    def _keep(self, request: Request, png: bytes) -> str:
        """Keep a picture; return its URL, by the host that the client has asked."""
        name = self._images.store.add(png)
        return str(request.base_url.replace(path=f"{PICTURES_PATH}{name}.png"))

    async def picture(self, request: Request) -> Response:
        """Return a picture that was asked for by URL."""
        png = self._images.store.find(request.path_params["picture"].removesuffix(".png"))
        if png is None:
            raise NotFoundError("there is no such picture, or not any more: the server keeps the latest ones")
        return Response(png, media_type="image/png", headers=_PICTURE_HEADERS)


def _describe(model: ImageModel) -> dict[str, Any]:
    """Return a model in OpenAI's form; what requests may ask of it is more than that has."""
    config = model.config
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_s,
        "owned_by": "ascend_parallel",
        "sizes": list(model.sizes),
        "steps": config.steps,
        "max_steps": config.max_steps,
        "guidance_scale": config.guidance_scale,
        "max_pictures": config.max_pictures,
    }
