"""A run on the hosts of a Ray cluster: the same run, with another runner."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ascend_parallel.cluster.runner import ClusterPredictUtils
from ascend_parallel.cluster.settings import ALL, read_cluster, read_device_type, whole_name
from ascend_parallel.devices import Device
from ascend_parallel.errors import UsageError
from ascend_parallel.runner.options import DEFAULT_MAX_RETRIES
from ascend_parallel.worker.engines import Engine

from .files import File
from .manifest import MANIFEST
from .settings import MapSettings
from .spec import PipelineSpec


class _ClusterRunner(ClusterPredictUtils):
    """A runner that does not count the end of a worker against its device: the cause is usually a file.

    The loss of a host is not the fault of the files that it had: they are sent to another one.
    """

    def __init__(self, *args: Any, required: list[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = self._limits._replace(blames_device=False, max_retries=DEFAULT_MAX_RETRIES)
        self._required = required


def make_cluster_runner(spec: PipelineSpec, settings: MapSettings, options: Mapping[str, Any]) -> ClusterPredictUtils:
    """Return the runner of a run on a cluster; raises UsageError."""
    assert settings.cluster is not None
    if settings.devices is not None and not isinstance(settings.devices, str):
        raise UsageError(f"devices is {settings.devices!r}; on a cluster it is text such as 'ascend:*'")
    folders = [settings.input_dir] if settings.input_dir is not None else []
    if settings.output_dir is not None and settings.keep == "files":
        folders.append(os.path.join(settings.output_dir, MANIFEST))
    told = dict(options["engine_options"])
    for name in ("preprocess", "postprocess"):
        if told.get(name):
            told[name] = whole_name(told[name])
    return _ClusterRunner(
        spec.model,
        devices=settings.devices,
        num_devices=ALL if settings.num_devices is None else settings.num_devices,
        address=read_cluster(settings.cluster),
        required=[os.path.abspath(folder) for folder in folders],
        **{**options, "engine_options": told},
    )


def device_of_type(devices: object, engine: type[Engine]) -> Device:
    """Return a device of the type of ``"cpu:*"``, to check for it what depends on the type; raises UsageError."""
    kind = read_device_type(devices, engine) if isinstance(devices, str) else None
    if kind is None:
        raise UsageError("precision depends on the devices: on a cluster, name their type, such as devices='gpu:*'")
    return Device(kind, 0)


def whole_file(file: File) -> File:
    """Return a file with its absolute path, as hosts need it; what is no path of this machine stays as it is."""
    if file.path.startswith("/") or not os.path.lexists(file.path):
        return file
    return file._replace(path=os.path.abspath(file.path))
