"""What runs on each host: an actor of Ray that holds a local runner over its devices.

An actor with several instances has several threads (Ray's ``max_concurrency``): while one waits for a bundle, the next
bundle arrives in another, so that no device waits for the driver. An actor with one instance computes in its one
thread.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any, TypeVar

import ascend_parallel
from ascend_parallel.backends.backend import Backend
from ascend_parallel.backends.call import Call
from ascend_parallel.backends.worker_environment import THREAD_VARIABLES
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.model import Model
from ascend_parallel.devices import Device, usable_cores
from ascend_parallel.errors import UsageError, WorkerTimeout
from ascend_parallel.runner.options import choose_engine
from ascend_parallel.runner.runner import ParallelPredictUtils
from ascend_parallel.worker.engines.pipeline import HOST_VARIABLE

from .inline import InlineBackend
from .messages import Reply, Request, encode_error, pack_replies, unpack_requests
from .model_files import unpack_models
from .ray_session import host_name
from .settings import RESOURCES, VARIABLES, HostSpec

#: Ray's group of threads for the methods that must not wait for bundles: ``watch`` and ``stats``.
SIDE, SIDE_THREADS = "side", 2

Method = TypeVar("Method", bound=Callable[..., Any])


def in_side_group(method: Method) -> Method:
    """Have Ray call a method in the side group, as ``ray.method`` does; Ray need not be installed.

    An option of each call would say so, too, but a Ray client refuses it.
    """
    vars(method)["__ray_concurrency_group__"] = SIDE
    return method


class HostRunner(ParallelPredictUtils):
    """A local runner that computes pieces: parts of a batch that the driver has cut for this host."""

    def __init__(self, *args: Any, is_outer_budget: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._piece_models: dict[tuple[str, int], Model] = {}
        if is_outer_budget:
            self._limits = self._limits._replace(blames_device=False)

    def _make_backend(self) -> Backend:
        if self._workers == "threads" and self.capacity == 1:
            return InlineBackend(self._specs[0])
        return super()._make_backend()

    def begin(self, request: Request) -> Call:
        """Start a piece; raises what :meth:`predict` raises before it waits."""
        backend = self._built()
        key = (request.model, request.parts)
        model = self._piece_models.get(key) or self._piece_models.setdefault(key, self._piece_model(*key))
        inputs = request.inputs
        plan, arrays = model.plan(inputs if request.names is None else dict(zip(request.names, inputs, strict=True)))
        call = Call(plan, backend.place(plan, arrays, in_place=True))
        call.timeout_s = request.timeout_s
        backend.enqueue(call)
        return call

    def note_last(self, is_last: bool) -> None:
        """Say whether the next piece is the last of a bundle: its outputs are sent before another is computed."""
        backend = self._built()
        if isinstance(backend, InlineBackend):
            backend.is_last = is_last

    def finish(self, call: Call) -> dict[str, Array]:
        """Wait for a piece; return its outputs by name."""
        outputs = self._built().wait(call)
        return outputs if isinstance(outputs, dict) else {f"output{i}": array for i, array in enumerate(outputs)}

    def _piece_model(self, name: str, parts: int) -> Model:
        """Return the model, cut into so many tasks: the driver and one host alone would cut the rows the same way."""
        return self._make_model(name, self._chunk_size, parts)


class HostActor:
    """The methods that the driver calls; Ray makes an actor of this class."""

    def __init__(self) -> None:
        self._runner: HostRunner | None = None
        self._has_threads = False
        self._closed = threading.Event()

    def build(self, spec: HostSpec) -> dict[str, Any]:
        """Build the models on all devices of this actor.

        Returns:
            ``{"node", "host", "ids", "devices", "descriptions", "manifest_axes"}``: the node's id, the host's name, the
            ids that Ray assigned (none for CPUs), the devices by their names here, what engines say of the models, and
            what manifests say of batch axes; or ``{"host", "error"}``.
        """
        try:
            return self._build(spec)
        except Exception as error:
            return {"host": host_name(_node_id()), "error": encode_error(error)}

    def _build(self, spec: HostSpec) -> dict[str, Any]:
        if spec.version != ascend_parallel.__version__:
            raise UsageError(
                f"it has ascend-parallel {ascend_parallel.__version__}, the driver has {spec.version}: install the same"
            )
        for path in spec.required:
            if not os.path.exists(path):
                raise UsageError(f"it does not see {path}: the files of a run must be on storage that all hosts share")
        sys.path.extend(path for path in spec.import_path if path not in sys.path)
        os.environ[HOST_VARIABLE] = host_name(_node_id())
        self._has_threads = spec.options["workers"] == "threads"
        ids = assigned_ids(spec.device_type)
        self._runner = _make_runner(spec, local_ids(spec.device_type, spec.devices, ids))
        self._runner.build_model()
        backend = self._runner._built()
        return {
            "node": _node_id(),
            "host": host_name(_node_id()),
            "ids": ids,
            "devices": [str(device) for device in self._runner.devices],
            "descriptions": backend.descriptions,
            "manifest_axes": self._runner._manifest_axes,
        }

    def run(self, head: bytes, *following: Any) -> Any:
        """Compute a bundle; see ``messages.py``. A piece that fails does not affect the others."""
        arrived_ns = perf_counter_ns()
        assert self._runner is not None
        requests, objects = unpack_requests(head, following)
        self._runner.note_last(len(requests) == 1)
        begun = [self._begin(self._runner, request, arrived_ns) for request in requests]
        replies = [self._finish(self._runner, start, call, arrived_ns) for start, call in begun]
        return pack_replies(replies, perf_counter_ns() - arrived_ns, objects)

    def _begin(self, runner: HostRunner, request: Request, since_ns: int) -> tuple[int, Call | Exception]:
        started_ns = perf_counter_ns() - since_ns
        try:
            return started_ns, runner.begin(request)
        except Exception as error:
            return started_ns, error

    def _finish(self, runner: HostRunner, started_ns: int, call: Call | Exception, since_ns: int) -> Reply:
        outputs, error = None, call if isinstance(call, Exception) else None
        try:
            if not isinstance(call, Exception):
                outputs = runner.finish(call)
        except Exception as raised:
            error = raised
        told = None if error is None else {**encode_error(error), "is_broken": self._is_broken(runner, error)}
        return Reply(outputs, told, started_ns, perf_counter_ns() - since_ns)

    def _is_broken(self, runner: HostRunner, error: Exception) -> bool:
        """Whether the actor must be replaced: a thread hangs, which cannot be ended, or no device is left."""
        if self._has_threads and isinstance(error, WorkerTimeout):
            return True
        try:
            return all(worker["state"] == "out" for worker in runner.stats()["workers"].values())
        except Exception:  # the error with which the last device was lost
            return True

    @in_side_group
    def watch(self) -> None:
        """Return when the actor is closed: the driver learns of its end by the end of this call."""
        self._closed.wait()

    @in_side_group
    def stats(self) -> dict[str, Any]:
        """Return the figures of the local runner."""
        assert self._runner is not None
        return self._runner.stats()

    def close(self) -> None:
        """End the local runner; called in the threads of bundles, as an engine is closed in the thread that used it."""
        self._closed.set()
        if self._runner is not None:
            self._runner.close()


def _make_runner(spec: HostSpec, ids: Sequence[int]) -> HostRunner:
    models = unpack_models(spec.shipped) if spec.shipped else spec.models
    engine = choose_engine(models.values(), spec.options["engine"])
    options = dict(spec.options)
    devices_of_host = max(spec.devices, count_of_host(spec.resource))  # other actors use its cores, too
    threads = max(1, usable_cores() // (devices_of_host * options["instances"]))
    if engine.spreads_over_cores:
        options["engine_options"] = {"threads": threads, **options["engine_options"]}
    set_thread_variables(threads)
    devices = [Device(spec.device_type, number) for number in ids]
    model: Any = models[""] if list(models) == [""] else models
    return HostRunner(model, devices=devices, is_outer_budget=spec.is_outer_budget, **options)


def set_thread_variables(threads: int) -> None:
    """Tell the libraries of this process, and of the worker processes that it starts, how many threads to use."""
    for variable in THREAD_VARIABLES:
        # Ray has set the first of them to 1: an actor is no user's choice, and its devices share the host's cores.
        if variable == THREAD_VARIABLES[0] or variable not in os.environ:
            os.environ[variable] = str(threads)


def count_of_host(resource: str) -> int:
    """Return how much of a resource of Ray's this host has."""
    import ray

    totals = [node["Resources"].get(resource, 0) for node in ray.nodes() if node["NodeID"] == _node_id()]
    return max(map(int, totals), default=0)


def assigned_ids(device_type: str) -> list[str]:
    """Return the ids of the accelerators that Ray assigned to this actor; none for CPUs."""
    import ray

    if device_type not in VARIABLES:
        return []
    return list(ray.get_runtime_context().get_accelerator_ids().get(RESOURCES[device_type], []))


def local_ids(device_type: str, count: int, assigned: Sequence[str]) -> list[int]:
    """Return the devices' ids in this process.

    Ray has set ``ASCEND_RT_VISIBLE_DEVICES`` or ``CUDA_VISIBLE_DEVICES`` to the assigned devices, so that they count
    from 0 here. Where Ray was told not to set it (``RAY_EXPERIMENTAL_NOSET_...``), the ids are those that it assigned.
    """
    variable = VARIABLES.get(device_type)
    if variable and assigned and os.environ.get(variable) != ",".join(assigned):
        return [int(number) for number in assigned]
    return list(range(count))


def _node_id() -> str:
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


def actor_class() -> Any:
    """Return the actor's class as Ray wants it."""
    import ray

    return ray.remote(concurrency_groups={SIDE: SIDE_THREADS})(HostActor)
