"""``RunnerUDF``: a runner as a stage of Ray Data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ascend_parallel.devices import Device, usable_cores
from ascend_parallel.errors import UsageError
from ascend_parallel.runner.options import choose_engine, name_models
from ascend_parallel.runner.runner import ParallelPredictUtils, Path

from .host import assigned_ids, local_ids
from .ray_session import check_ray
from .settings import choose_workers

__all__ = ["RunnerUDF"]


class RunnerUDF:
    """Runs a model on the batches of a Ray Dataset: a class for ``Dataset.map_batches``.

    ::

        ray.data.read_images("s3://bucket/scans", size=(224, 224)).map_batches(
            RunnerUDF,
            fn_constructor_kwargs={"model": "/models/resnet.mindir", "inputs": {"x": "image"}, "keep": ["path"]},
            batch_size=32,
            concurrency=8,
            resources={"NPU": 1},
        )

    Each of Ray Data's actors holds a runner over the devices that Ray assigned to it. It takes and returns batches in
    the format "numpy", a dict of column name -> array.
    """

    def __init__(
        self,
        model: Path,
        *,
        inputs: Mapping[str, str] | None = None,
        keep: Iterable[str] = (),
        devices: str | Iterable[str | Device] | None = None,
        workers: str | None = None,
        **options: Any,
    ) -> None:
        """Build the model, in the actor.

        Args:
            model: as for :class:`ParallelPredictUtils`.
            inputs: the model's input name -> the column that holds it; None: the columns have the inputs' names.
            keep: columns to pass on beside the outputs.
            devices: such as ``"cpu:0"``; None: those that Ray assigned: NPU, else GPU, else one CPU.
            workers: "threads" of the actor, or "processes"; None: threads, unless the engine, ``worker_python`` or
                ``share_weights`` needs processes.
            options: other arguments of :class:`ParallelPredictUtils`.

        Raises:
            UsageError: an argument is wrong.
        """
        check_ray("RunnerUDF")
        self._columns = dict(inputs) if inputs is not None else None
        self._keep = list(keep)
        engine = choose_engine(name_models(model).values(), options.get("engine"))
        workers = choose_workers(workers, engine, options.get("worker_python"), options.get("share_weights", False))
        chosen = assigned_devices() if devices is None else devices
        if engine.spreads_over_cores and devices is None:
            threads = {"threads": threads_of_actor()}
            options["engine_options"] = {**threads, **options.get("engine_options", {})}
        self._runner = ParallelPredictUtils(model, devices=chosen, workers=workers, **options)
        self._runner.build_model()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of a batch, and the columns to keep.

        Raises:
            UsageError: the batch lacks a column.
            ShapeError: a column does not fit the model's input.
        """
        names = self._columns or {spec.name: spec.name for spec in self._runner.inputs or ()}
        names = names or {name: name for name in batch if name not in self._keep}
        missing = [column for column in (*names.values(), *self._keep) if column not in batch]
        if missing:
            raise UsageError(
                f"the batch has no column {missing[0]!r}; it has {', '.join(map(repr, batch))}: name the columns of "
                "the inputs with inputs={'input': 'column'}"
            )
        outputs = self._runner.predict({name: _stack(batch[column]) for name, column in names.items()})
        return {**{column: batch[column] for column in self._keep}, **outputs}


def _stack(column: Any) -> Any:
    """Return a column as one array: where rows are arrays, Ray Data may give an array of objects."""
    array = np.asarray(column)
    return np.stack(list(array)) if array.dtype == object and array.size else array


def assigned_devices() -> list[Device]:
    """Return the devices that Ray assigned to this actor, by their numbers in this process."""
    for kind in ("ascend", "gpu"):
        assigned = assigned_ids(kind)
        if assigned:
            return [Device(kind, number) for number in local_ids(kind, len(assigned), assigned)]
    return [Device("cpu", 0)]


def threads_of_actor() -> int:
    """Return how many threads an engine is to use on CPUs: the CPUs that Ray assigned to this actor."""
    import ray

    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
    return max(1, min(int(cpus), usable_cores()))
