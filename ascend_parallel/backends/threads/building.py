"""Engines built in threads of this process, all at the same time, once for all instances that share their weights."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ascend_parallel.backends.worker_spec import WorkerSpec
from ascend_parallel.worker.building import Engines, build, close_all
from ascend_parallel.worker.results import describe_error


class Build:
    """The models of one group of instances, built in a thread of its own.

    Attributes:
        specs: those of the group's workers.
        thread: the thread that builds.
        instances: the engines of each instance, with its spec, once all are built.
        description: model name -> what an engine says of the model (see ``worker/building.py``).
        error: (type, text, traceback) of what was raised; None where nothing was.
    """

    def __init__(self, specs: Sequence[WorkerSpec], done: threading.Semaphore) -> None:
        """Prepare; ``done`` is released when the group is built or has failed to."""
        self.specs = specs
        self.instances: list[tuple[WorkerSpec, Engines]] = []
        self.description: dict[str, Any] = {}
        self.error: tuple[str, str, str] | None = None
        self._done = done
        label = specs[0].label
        self.thread = threading.Thread(target=self._run, name=f"ascend-parallel build {label}", daemon=True)

    def _run(self) -> None:
        try:
            self._build()
        except BaseException as error:  # in a thread, SystemExit is an error like all others
            self.error = describe_error(error)
        finally:
            self._done.release()

    def _build(self) -> None:
        specs = [spec for spec in self.specs for _ in range(spec.request["instances"])]
        request = {**specs[0].request, "options": dict(specs[0].request["options"])}
        if "instances" in request["options"]:
            request["options"]["instances"] = len(specs)
        built, self.description = build(request, len(specs))
        self.instances = list(zip(specs, built, strict=True))
        for spec, own in self.instances:
            for engine in own.values():
                engine.set_device(tuple(spec.request["device"]))

    def close(self) -> None:
        """Close engines that no instance has taken over, as another group failed to be built."""
        for _, engines in self.instances:
            close_all(engines)
        self.instances = []


def group_by_weights(specs: Sequence[WorkerSpec], can_share: bool) -> list[list[WorkerSpec]]:
    """Return the specs whose instances share one set of weights: those of one device, and those of all CPU "devices".

    ``cpu:0`` and ``cpu:1`` are the same memory, whatever their numbers, and so are ``openvino:0`` and ``openvino:1``.
    """
    groups: dict[Any, list[WorkerSpec]] = {}
    for number, spec in enumerate(specs):
        kind = spec.request["device"][0]
        shared = kind if kind in ("cpu", "openvino") else spec.device
        key = shared if can_share else number
        groups.setdefault(key, []).append(spec)
    return list(groups.values())
