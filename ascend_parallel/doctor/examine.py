"""The examination: all layers in order, each whatever the others came to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ascend_parallel.devices.discovery import remember

from . import cann, container, driver, kernel, nodes, pythons, runtimes, speed, surroundings, work
from .context import Context
from .finding import FAILURE, Finding, Layer, failure

__all__ = ["examine"]

Check = Callable[[Context], Iterable[Finding]]

#: The layers that only look, in the order in which things depend on each other.
LAYERS: tuple[tuple[str, Check], ...] = tuple(
    (module.TITLE, module.check) for module in (kernel, pythons, driver, nodes, container, cann, surroundings, runtimes)
)


def examine(context: Context) -> Iterator[Layer]:
    """Yield the layers as they are done; the last one has the verdict, whether the devices asked for work."""
    layers: list[Layer] = []
    trials = work.Work(context)
    for title, check in (*LAYERS, (work.TITLE, lambda _: trials.check()), (speed.TITLE, speed.check)):
        with remember(context.discovery):  # the trials must not wait for a tool that hangs again and again
            layers.append(Layer(title, list(_guard(title, check, context))))
        if layers[-1].findings:
            yield layers[-1]
    yield Layer("Verdict", [trials.verdict(layers)])


def _guard(title: str, check: Check, context: Context) -> Iterator[Finding]:
    """Yield a layer's findings; a fault of the check itself is one, too."""
    try:
        yield from check(context)
    except Exception as error:
        seen = f"the check itself failed: {type(error).__name__}: {error}"
        yield failure(title, seen, "please report this: it is a fault of ascend-parallel doctor")


def works(layers: Iterable[Layer]) -> bool:
    """Whether the devices asked for work."""
    return all(finding.state != FAILURE for layer in layers if layer.title == "Verdict" for finding in layer.findings)
