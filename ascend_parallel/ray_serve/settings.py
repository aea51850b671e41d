"""The configuration of an application: that of ``ascend-parallel serve``, without what Ray Serve does itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ascend_parallel.devices import Device
from ascend_parallel.devices.discovery import remember
from ascend_parallel.devices.spec import parse_devices
from ascend_parallel.errors import ConfigError, DeviceSpecError
from ascend_parallel.serving.config import ServerConfig
from ascend_parallel.serving.config_checks import check_config
from ascend_parallel.serving.config_file import read_checked
from ascend_parallel.serving.server import make_all_served
from ascend_parallel.serving.yaml_file import Problem, read_yaml

from .connection import has_working_dir
from .devices import candidate_devices

_LISTENS = "its proxies listen; set {} in its http_options"
_LOGS = "it logs requests itself; set {} in the logging_config of the deployment"
#: Settings that a replica does not have, and why.
REFUSED = {
    "host": _LISTENS.format("host"),
    "port": _LISTENS.format("port"),
    "grpc_port": "there, the Open Inference Protocol goes over HTTP only",
    "tls_cert": _LISTENS.format("ssl_certfile"),
    "tls_key": _LISTENS.format("ssl_keyfile"),
    "max_connections": "its proxies take the connections",
    "shared_memory_prefix": "a client and the replica that answers it may be on two hosts",
    "access_log": _LOGS.format("enable_access_log"),
    "log_format": _LOGS.format("encoding"),
    "trace": "all replicas would write the same file",
    "drain_timeout_s": "set graceful_shutdown_timeout_s of the deployment",
    "images": "pictures are drawn, and kept for their URLs, by one server: use ascend-parallel serve",
    "allow_control": "a client would load and unload a model in one replica of many",
}


class Settings(NamedTuple):
    """What an application serves.

    Attributes:
        data: the settings, as a file has them.
        folder: what files are relative to, for the replicas.
        config: the settings, checked.
        hardware: the devices that the models run on, by their numbers in a replica.
    """

    data: Any
    folder: str
    config: ServerConfig
    hardware: set[Device]

    @property
    def longest_timeout_s(self) -> float:
        """The longest ``timeout_ms`` of all that is served, in seconds."""
        models = [model.batching.timeout_ms for model in self.config.models]
        return max([*models, *(pipeline.timeout_ms for pipeline in self.config.pipelines)]) / 1000

    @property
    def most_requests(self) -> int:
        """How many requests fill the devices of a replica: for each, a batch that runs and one that waits."""
        models = [2 * model.batching.max_batch_size * model.instances for model in self.config.models]
        ops = [2 * op.batching.max_batch_size for pipeline in self.config.pipelines for op in pipeline.ops]
        return sum([*models, *ops]) * len(self.hardware)


def read_settings(source: str | Mapping[str, Any], per_replica: int | None) -> Settings:
    """Return what is to be served.

    Args:
        source: the path of a file, or the settings themselves.
        per_replica: how many NPUs or GPUs a replica is to have, if that is said.

    Raises:
        ConfigError: something is wrong; has all of it.
        UsageError: the file cannot be read, or it is not clear which devices a replica is to have.
    """
    data = _load(source) if isinstance(source, str) else _plain(source)
    named = named_devices(data)
    with remember(candidate_devices(named, per_replica, is_complete=_names_all_devices(data))):
        if isinstance(source, str):
            data, config = read_checked(source, check)
        else:
            config = _check_mapping(data)
        served = make_all_served(config)
    hardware = {device.hardware for one in served for device in parse_devices(one.devices)}
    folder = os.path.dirname(source) if isinstance(source, str) else ""
    if not has_working_dir():
        folder = os.path.abspath(folder)
    return Settings(data, folder, config, hardware | named)


def _load(path: str) -> Any:
    """Return the settings of a file for a first look; what is wrong with it is told later, with all the rest."""
    with contextlib.suppress(OSError):
        return read_yaml(Path(path).read_bytes()).data
    return None


def _plain(value: Any) -> Any:
    """Return settings as plain dicts and lists."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _check_mapping(data: Any) -> ServerConfig:
    config, problems = check(data, "")
    if config is None:
        raise ConfigError([f"config: {problem.message}" for problem in problems])
    return config


def check(data: Any, folder: str) -> tuple[ServerConfig | None, list[Problem]]:
    """Check the settings; those that Ray Serve has in their place are refused."""
    config, problems = check_config(data, folder)
    for name, why in REFUSED.items():
        if isinstance(data, Mapping) and name in data:
            problems.append(Problem((name,), f"{name} is not for Ray Serve: {why}", at_key=True))
    return (None if problems else config), problems


def named_devices(data: Any) -> set[Device]:
    """Return the hardware that settings name; what is wrong in them is passed over."""
    named: set[Device] = set()
    for part in _with_devices(data):
        with contextlib.suppress(DeviceSpecError):
            named |= {device.hardware for device in parse_devices(part.get("devices") or ())}
    return named


def _names_all_devices(data: Any) -> bool:
    """Whether all that has a model names its devices; ops of Python alone run on the CPU, if they name none."""
    return all(one.get("devices") is not None for one in _with_devices(data) if "path" in one)


def _with_devices(data: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of all models and ops; what is none is passed over."""
    yield from _items(data, "models")
    for pipeline in _items(data, "pipelines"):
        yield from _items(pipeline, "ops")


def _items(data: Any, name: str) -> list[Mapping[str, Any]]:
    items = data.get(name) if isinstance(data, Mapping) else None
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
