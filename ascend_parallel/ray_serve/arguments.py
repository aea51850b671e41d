"""The arguments of ``build``: ours, and the options of a Ray Serve deployment."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from ascend_parallel.checks import check_whole_number, refuse
from ascend_parallel.errors import UsageError
from ascend_parallel.serving.words import suggest

#: How often a request is sent to another replica, unless the user says otherwise.
DEFAULT_MAX_RETRIES = 2
_OWN = ("config", "devices_per_replica", "max_retries")
#: Options of a deployment that the application sets itself, or that a replica cannot take.
_NOT_PASSED_ON = ("self", "func_or_class", "name", "version", "user_config")


class Arguments(NamedTuple):
    """The arguments, each of its type.

    Attributes:
        config: the path of a configuration, or its settings.
        devices_per_replica: how many NPUs or GPUs each replica gets; None: what the models name, or a host has.
        max_retries: how often a request is sent to another replica.
        options: of the deployment of the models.
    """

    config: str | Mapping[str, Any]
    devices_per_replica: int | None
    max_retries: int
    options: dict[str, Any]


def read_arguments(args: Mapping[str, Any]) -> Arguments:
    """Return the arguments; raises UsageError."""
    passed_on = deployment_options()
    for name in args:
        if name not in (*_OWN, *passed_on):
            hint = suggest(str(name), [*_OWN, *passed_on])
            raise UsageError(f"{name!r} is no argument of build, and no option of a Ray Serve deployment; {hint}")
    config = args.get("config")
    if not isinstance(config, str | Mapping) or not config:
        refuse("config", config, "the path of a configuration, as in config=config.yml, or its settings")
    told = {name: _read(name, value) for name, value in args.items() if name != "config"}
    per_replica = told.pop("devices_per_replica", None)
    if per_replica is not None:
        check_whole_number("devices_per_replica", per_replica, 1)
    max_retries = told.pop("max_retries", DEFAULT_MAX_RETRIES)
    check_whole_number("max_retries", max_retries, 0)
    return Arguments(config, per_replica, max_retries, told)


def deployment_options() -> list[str]:
    """Return the names of the options of a Ray Serve deployment that are passed on."""
    from ray import serve

    names = inspect.signature(serve.Deployment.options).parameters
    return [name for name in names if not name.startswith("_") and name not in _NOT_PASSED_ON]


def _read(name: str, value: Any) -> Any:
    """Return a value; text from the command line is read as YAML: a number, or {min_replicas: 1, max_replicas: 4}."""
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        refuse(name, value, "a value as in YAML")
