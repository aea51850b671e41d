"""The image models of a server, and the pictures that it keeps for clients to fetch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .errors import UnknownModelError
from .picture_store import PictureStore

if TYPE_CHECKING:
    from .image_model import ImageModel


class ImageService:
    """All image models; iterating yields them in the order of the configuration.

    Attributes:
        store: the latest pictures that were asked for by URL.
    """

    def __init__(self, models: Sequence[ImageModel] = ()) -> None:
        """Take the models, which have different names."""
        self.store = PictureStore()
        self._models = {model.name: model for model in models}

    def __iter__(self) -> Iterator[ImageModel]:
        yield from self._models.values()

    def find(self, name: str | None) -> ImageModel:
        """Return a model, by default the first; raises UnknownModelError."""
        if name is None and self._models:
            return next(iter(self._models.values()))
        if name not in self._models:
            known = ", ".join(self._models)
            if not known:
                raise UnknownModelError("this server has no image models: its configuration has no images")
            raise UnknownModelError(f"there is no image model {name!r:.100}; the image models are: {known}")
        return self._models[name]

    def give_up(self) -> None:
        """Fail all pictures at once."""
        for model in self:
            model.give_up()
