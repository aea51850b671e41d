"""``build``: what ``serve run``, a configuration file of Ray Serve and ``serve.run`` call to get the application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ascend_parallel
from ascend_parallel.checks import check_installed
from ascend_parallel.cluster.ray_session import INSTALL
from ascend_parallel.errors import UsageError
from ascend_parallel.runner.options import import_path

__all__ = ["build"]

#: Modules of Ray's extra "serve", and of ours.
_MODULES = ("ray", "fastapi", "pydantic", "uvicorn", "uvloop", "httptools", "starlette")
#: The names of the deployments.
MODELS, INGRESS = "models", "ingress"
#: Only the head node has it. The ingress is there, with Ray Serve's controller, as long as the user does not say else.
_HEAD_RESOURCE = "node:__internal_head__"
#: Requests that the ingress may hold: more than any; max_pending_bytes bounds their memory.
_INGRESS_REQUESTS = 100_000
#: Requests that Ray Serve sends to a replica at a time, at least: where a model is quick, many are on their way.
_MIN_ONGOING_REQUESTS = 100


def build(args: Mapping[str, Any]) -> Any:
    """Return the application: the models of a configuration, in replicas on the hosts of a Ray cluster.

    ::

        serve run ascend_parallel.ray_serve:build config=config.yml num_replicas=2
        serve.run(build({"config": "config.yml", "autoscaling_config": {"max_replicas": 8}}))

    Args:
        args: the arguments by name; values may be text, as on the command line:

            - config: a file as for ``ascend-parallel serve``, or its settings.
            - devices_per_replica: how many NPUs or GPUs a replica has. Default: those that the models name; all of a
              host if a model names none.
            - max_retries: how often a request is sent to another replica after its own was lost. Default: 2. With 0
              there is no ingress: Ray Serve's proxies send requests to the replicas.
            - Options of a Ray Serve deployment, such as num_replicas, autoscaling_config, max_ongoing_requests and
              ray_actor_options, are passed on to the deployment of the models.

    Returns:
        An ``Application`` of Ray Serve, with the deployments "models" and "ingress".

    Raises:
        ConfigError: something is wrong in the configuration; has all of it.
        UsageError: an argument is wrong, or a package is missing.
    """
    for module in _MODULES:
        check_installed("Ray Serve", module, INSTALL)
    from .arguments import read_arguments
    from .devices import add_resources
    from .settings import read_settings
    from .spec import IngressSpec, ReplicaSpec

    arguments = read_arguments(args)
    settings = read_settings(arguments.config, arguments.devices_per_replica)
    options = add_resources(arguments.options, settings.hardware, arguments.devices_per_replica)
    options.setdefault("max_ongoing_requests", max(_MIN_ONGOING_REQUESTS, settings.most_requests))  # not Ray's 5
    config = settings.config
    return _bind(
        ReplicaSpec(settings.data, settings.folder, import_path(), ascend_parallel.__version__),
        options,
        IngressSpec(arguments.max_retries, settings.longest_timeout_s, config.max_body_bytes, config.max_pending_bytes),
    )


def _bind(replica: Any, options: dict[str, Any], ingress: Any) -> Any:
    from ray import serve

    from .ingress import Ingress
    from .replica import Replica

    try:
        models = serve.deployment(Replica, name=MODELS, **options).bind(replica)
    except (TypeError, ValueError) as error:
        raise UsageError(f"Ray Serve refuses the options of the deployment: {error}") from None
    if not ingress.max_retries:
        return models
    of_both = {name: options[name] for name in ("logging_config",) if name in options}
    deployment = serve.deployment(
        Ingress,
        name=INGRESS,
        max_ongoing_requests=_INGRESS_REQUESTS,
        ray_actor_options={"num_cpus": 0, "resources": {_HEAD_RESOURCE: 0.001}},
        **of_both,
    )
    return deployment.bind(models, ingress)
