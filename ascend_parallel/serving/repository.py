"""The models that are served, by name and version; loaded, replaced and unloaded without dropping a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from ascend_parallel.errors import AscendParallelError, NotFoundError, OverloadedError, ServingError, UsageError

from .log import logger
from .served import Served

#: Makes the models of a name as the configuration has them now; none if it has no such name. Raises UsageError.
MakeModels = Callable[[str], list[Served]]


class Repository:
    """The models of one server. All methods run in the event loop's thread.

    Attributes:
        is_draining: the server is about to end: it is not ready, and answers the requests that it has.
    """

    def __init__(self, models: list[Served], make_models: MakeModels, drain_timeout_s: float) -> None:
        """Take models that are not loaded yet.

        Args:
            models: what the server starts with.
            make_models: makes a model anew when it is loaded again.
            drain_timeout_s: how long the requests of a model that is unloaded may take.
        """
        self.is_draining = False
        self._models: dict[str, dict[str, Served]] = {}
        self._known: dict[tuple[str, str], Served] = {}  # what find returned since the last change
        self._unloading: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self._make_models = make_models
        self._drain_timeout_s = drain_timeout_s
        for model in models:
            self._models.setdefault(model.name, {})[model.version] = model

    def __iter__(self) -> Iterator[Served]:
        for versions in self._models.values():
            yield from versions.values()

    def find(self, name: str, version: str = "") -> Served:
        """Return a version of a model, by default the latest; raises NotFoundError."""
        found = self._known.get((name, version))
        return found if found is not None else self._look_up(name, version)

    def _look_up(self, name: str, version: str) -> Served:
        versions = self._models.get(name)
        if not versions:
            known = ", ".join(self._models) or "none"
            raise NotFoundError(f"there is no model {name!r}; the models are: {known}")
        if version and version not in versions:
            raise NotFoundError(f"model {name!r} has no version {version!r}; it has {', '.join(versions)}")
        found = self._known[name, version] = versions[version or max(versions, key=_order)]
        return found

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model; raises NotFoundError."""
        self.find(name)
        return sorted(self._models[name], key=_order)

    @property
    def is_ready(self) -> bool:
        """Whether each model can compute, and the server is not about to end."""
        return not self.is_draining and all(model.is_ready for model in self)

    async def load_all(self) -> None:
        """Load all models at the same time; raises the first failure."""
        tasks = [asyncio.ensure_future(model.load()) for model in self]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def load(self, name: str) -> None:
        """Load a model as the configuration has it now; it takes over from the one before once it is ready.

        Raises:
            NotFoundError: the configuration has no model of this name.
            UsageError: it is a part of an image model.
            ServingError, WorkerError: it cannot be loaded; the one before stays.
        """
        self._refuse_part(name)
        async with self._changing:
            if self.is_draining:
                raise OverloadedError("the server is about to end")
            made = await asyncio.to_thread(self._make_again, name)
            try:
                for model in made:
                    await model.load()
            except BaseException:
                for model in made:
                    self._unload_later(model)
                raise
            before = self._models.get(name, {})
            self._known.clear()
            self._models[name] = {model.version: model for model in made}
            for model in before.values():
                self._unload_later(model)

    def _make_again(self, name: str) -> list[Served]:
        """Return a model as the configuration has it now; called in a thread, as it reads files."""
        try:
            made = self._make_models(name)
        except UsageError as error:  # the server's fault, not the client's, who must not see its paths either
            logger.error("model %s cannot be loaded again: %s", name, error)
            raise ServingError(f"model {name!r} cannot be loaded again: the configuration is wrong now") from None
        if not made:
            raise NotFoundError(f"the configuration has no model {name!r}")
        return made

    async def unload(self, name: str) -> None:
        """Take a model out; the requests that it has are answered. Raises NotFoundError, and UsageError for a part."""
        self.find(name)
        self._refuse_part(name)
        async with self._changing:
            self._known.clear()
            tasks = [self._unload_later(model) for model in self._models.pop(name, {}).values()]
            await asyncio.gather(*tasks)

    def _refuse_part(self, name: str) -> None:
        for model in self._models.get(name, {}).values():
            if model.part_of:
                raise UsageError(
                    f"model {name!r} is a part of {model.part_of!r}, which stays as long as the server runs"
                )

    async def close(self, timeout_s: float) -> None:
        """Answer the requests that all models have, within the time for that; end all workers."""
        self.is_draining = True
        self._drain_timeout_s = timeout_s
        for model in self:
            self._unload_later(model)
        await asyncio.gather(*self._unloading, return_exceptions=True)
        self._known.clear()
        self._models.clear()

    def give_up(self) -> None:
        """Fail all requests at once."""
        for model in self:
            model.give_up()

    def _unload_later(self, model: Served) -> asyncio.Task[None]:
        task = asyncio.ensure_future(model.unload(self._drain_timeout_s))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)
        return task


def _order(version: str) -> tuple[int, str]:
    """Sort versions by number; those that are none come first."""
    return (int(version), "") if version.isdecimal() else (-1, version)


def why_not_ready(model: Served) -> str:
    """Return why a model is not ready, as a sentence's end."""
    if model.state != "READY":
        return model.reason
    for op in model.parts:
        if not op.is_ready:
            return f"has the op {op.name.rpartition('/')[2]!r}, which {why_not_ready(op)}"
    try:
        model.worker_stats()
    except AscendParallelError as error:
        return str(error)
    return "has no worker at the moment"
