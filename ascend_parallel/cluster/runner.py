"""``ClusterPredictUtils``: one model on the devices of many hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ascend_parallel
from ascend_parallel.backends.backend import Backend
from ascend_parallel.backends.call import Call
from ascend_parallel.batching.batch import BatchAxes
from ascend_parallel.batching.model import Model
from ascend_parallel.checks import check_bool
from ascend_parallel.runner.options import (
    check_batch_axes,
    check_counts,
    check_files,
    check_options,
    check_trace,
    choose_engine,
    import_path,
    make_limits,
    name_models,
)
from ascend_parallel.runner.runner import ParallelPredictUtils, Path

from . import ray_session
from .backend import ClusterBackend
from .hosts import Demand
from .messages import HEAD_BYTES
from .model_files import ship_models
from .pieces import ClusterModel
from .settings import (
    ALL,
    HostSpec,
    check_text,
    choose_device_type,
    choose_resource,
    choose_workers,
    read_device_type,
    read_num_devices,
    whole_paths,
)

#: ``map`` keeps so many calls in flight for each device where they are small, so that they can be bundled...
_SMALL_CALLS_AHEAD = 64
#: ...and so many where they are not.
_CALLS_AHEAD = 4


class ClusterPredictUtils(ParallelPredictUtils):
    """Runs one model, or several, on the devices of many hosts, through Ray: it splits each batch across them.

    ::

        with ClusterPredictUtils("unet.onnx", devices="ascend:*") as runner:
            outputs = runner.predict({"x": x})      # as with ParallelPredictUtils

    It has the methods of :class:`ParallelPredictUtils`. Each host has an actor of Ray that holds a runner over the
    host's devices. A host that is lost is replaced if there is another; what it computed is computed elsewhere.

    Attributes:
        devices: the devices in use, such as ``"node1/ascend:0"``; empty before :meth:`build_model`.
        models: as for :class:`ParallelPredictUtils`.
    """

    _backend: ClusterBackend | None = None
    #: Files and folders that all hosts must see.
    _required: Sequence[str] = ()

    def __init__(
        self,
        model: Path | Mapping[str, Path],
        *,
        devices: str | None = None,
        num_devices: int | str = ALL,
        devices_per_actor: int | None = None,
        address: str | None = None,
        resource: str | None = None,
        ship_model: bool = False,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
        precision: str | None = None,
        instances: int = 1,
        share_weights: bool = False,
        worker_python: Path | None = None,
        batch_axes: BatchAxes | None = None,
        chunk_size: int | None = None,
        warmup: int = 1,
        build_timeout_s: float = 600.0,
        predict_timeout_s: float = 600.0,
        max_retries: int | None = None,
        max_restarts: int | None = None,
        trace: Path | None = None,
        workers: str | None = None,
    ) -> None:
        """Check everything that can be checked here; Ray is not called before :meth:`build_model`.

        Args:
            model: as there; hosts find the file at the same path, unless ``ship_model`` sends it.
            devices: the type: ``"ascend:*"``, ``"gpu:*"``, ``"cpu:*"``; None: the best that the cluster has. Ray
                chooses which ones.
            num_devices: how many in all; ``"*"``: all that are free, and those of hosts that join later.
            devices_per_actor: how many each actor gets; None: all that are wanted of a host. One actor's crash does not
                affect the others.
            address: the cluster, as for ``ray.init``; None: the one that the program is connected to, else the one that
                Ray finds, else a local one.
            resource: Ray's resource that a device takes; None: NPU for ascend, GPU for gpu, CPU for cpu and simulated.
            ship_model: whether to send the model's files to each host, once, checked by their hash; else they are on
                storage that all hosts have.
            engine: as for :class:`ParallelPredictUtils`.
            engine_options: likewise.
            precision: likewise; each host checks it for its devices.
            instances: likewise.
            share_weights: likewise; of the worker processes of each host.
            worker_python: the interpreter of worker processes, at the same path on all hosts.
            batch_axes: as for :class:`ParallelPredictUtils`.
            chunk_size: likewise.
            warmup: likewise.
            build_timeout_s: how long it may take to get the devices, and then to build the models.
            predict_timeout_s: how long a task may take.
            max_retries: how often a task is sent to another host after its own was lost, and to another worker process
                after its own died; None: 2.
            max_restarts: how often a host's actor, or a worker process, is restarted within ten minutes; None: 3.
            trace: as for :class:`ParallelPredictUtils`; the workers in it are hosts.
            workers: "threads" of the actor, which read inputs in Ray's shared memory; or "processes" of each host.
                None: threads, unless the engine, ``worker_python`` or ``share_weights`` needs processes.

        Raises:
            UsageError: an argument is wrong, or Ray is not installed.
        """
        ray_session.check_ray("ClusterPredictUtils")
        check_counts(instances, chunk_size, warmup)
        self._limits = make_limits(build_timeout_s, predict_timeout_s, max_retries, max_restarts)
        self._batch_axes, self._chunk_size = check_batch_axes(batch_axes or {}), chunk_size
        own: dict[str, Any] = {"batch_axes": self._batch_axes}
        own |= {"engine_options": self._read_model(model, engine, engine_options, ship_model)}
        self._workers = choose_workers(workers, self._engine, worker_python, share_weights)
        self._read_devices(devices, num_devices, devices_per_actor, resource, address)
        own |= {"engine": self._engine.name, "instances": instances, "warmup": warmup, "chunk_size": chunk_size}
        own |= {"share_weights": share_weights, "worker_python": worker_python, "workers": self._workers}
        own |= {"precision": precision, "build_timeout_s": build_timeout_s, "predict_timeout_s": predict_timeout_s}
        of_processes = {"max_retries": max_retries, "max_restarts": max_restarts}
        self._options = own | (of_processes if self._workers == "processes" else {})
        self._trace_file = check_trace(trace, self._models.values())

    def _read_model(
        self,
        model: Path | Mapping[str, Path],
        engine: str | None,
        engine_options: Mapping[str, Any] | None,
        ship_model: bool,
    ) -> dict[str, Any]:
        """Check what is to be run; return the engine's options."""
        models = name_models(model)
        self._engine = choose_engine(models.values(), engine)
        self._models = whole_paths(models, self._engine)
        self.models: dict[str, Model] = {}
        check_bool("ship_model", ship_model)
        if ship_model:
            check_files(self._models.values(), self._engine)
        self._ships = ship_model and bool(self._engine.suffixes)
        return check_options(self._engine, engine_options or {})

    def _read_devices(
        self,
        devices: str | None,
        num_devices: int | str,
        devices_per_actor: int | None,
        resource: str | None,
        address: str | None,
    ) -> None:
        """Check where it is to run."""
        self._address = check_text("address", address, "the address of a Ray cluster, such as '10.0.0.1:6379'")
        self._kind = read_device_type(devices, self._engine)
        self._num_devices = read_num_devices(num_devices, devices_per_actor)
        self._devices_per_actor = devices_per_actor
        self._resource = resource
        if self._kind is not None:
            choose_resource(self._kind, resource)

    # ---- what it is

    @property
    def devices(self) -> list[Any]:  # type: ignore[override]
        """What it runs on now, by name, such as ``"node1/ascend:0"``; empty before :meth:`build_model`."""
        return [] if self._backend is None else self._backend.device_names()

    # ---- inside

    @property
    def capacity(self) -> int:  # type: ignore[override]
        """How many tasks all hosts compute at a time."""
        return 0 if self._backend is None else sum(self._backend.capacities)

    def _make_backend(self) -> Backend:
        is_own_connection = ray_session.connect(self._address)
        leave = ray_session.disconnect if is_own_connection else _stay
        try:
            return self._make_cluster_backend(leave)
        except BaseException:
            leave()
            raise

    def _make_cluster_backend(self, leave: Any) -> ClusterBackend:
        kind = self._kind or choose_device_type(self._engine, ray_session.resources_of_cluster())
        demand = Demand(
            device_type=kind,
            resource=choose_resource(kind, self._resource),
            devices=self._num_devices,
            devices_per_actor=self._devices_per_actor,
            instances=self._options["instances"],
            build_timeout_s=self._limits.build_timeout_s,
            max_restarts=self._limits.max_restarts,
        )
        spec = HostSpec(
            models=self._models,
            device_type=kind,
            devices=0,
            resource=demand.resource,
            options=self._options,
            is_outer_budget=not self._limits.blames_device,
            import_path=import_path(),
            required=list(self._required),
            shipped=ship_models(self._models) if self._ships else {},
            version=ascend_parallel.__version__,
        )
        return ClusterBackend(
            demand,
            spec,
            predict_timeout_s=self._limits.predict_timeout_s,
            max_retries=self._limits.max_retries,
            leave=leave,
        )

    def _make_model(self, name: str, chunk_size: int | None, parts: int) -> Model:
        backend = self._backend
        assert backend is not None
        return ClusterModel(
            name,
            backend.descriptions[name],
            batch_axes={**backend.manifest_axes.get(name, {}), **self._batch_axes},
            chunk_size=chunk_size,
            # One part is a call that is not to be split, whatever the hosts are.
            capacities=(lambda: backend.capacities) if parts > 1 else (lambda: (1,)),
        )

    def _calls_ahead(self, call: Call) -> int:
        is_small = call.plan.input_bytes * _SMALL_CALLS_AHEAD <= HEAD_BYTES * _CALLS_AHEAD
        return (_SMALL_CALLS_AHEAD if is_small else _CALLS_AHEAD) * self.capacity


def _stay() -> None:
    """Leave the program's own connection to Ray as it is."""
