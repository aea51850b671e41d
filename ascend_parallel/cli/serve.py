"""``ascend-parallel serve``: models behind HTTP and gRPC."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ascend_parallel.checks import check_installed
from ascend_parallel.errors import ConfigError, UsageError

from . import serve_options as opt
from .arguments import Devices, EngineName, EngineOptions, ShareWeights, WorkerPython, read_batch_axes, read_options

if TYPE_CHECKING:
    from ascend_parallel.pipelines.config import OpConfig
    from ascend_parallel.serving.config import ServerConfig
    from ascend_parallel.serving.image_config import ImageConfig
    from ascend_parallel.serving.model_config import ModelConfig
    from ascend_parallel.serving.yaml_file import Problem

#: The modules of the extra.
_MODULES = ("pydantic", "uvicorn", "uvloop", "httptools", "starlette", "grpc", "prometheus_client")
_INSTALL = "pip install 'ascend-parallel[serve]'"
_CONFIG_SUFFIXES = (".yml", ".yaml")
#: How the checks of a configuration name what an option sets.
_CONFIG_PATH = re.compile(r"models\[0\](?:\.[\w.\[\]]+: |\.(?:batching\.)?)")


def serve(
    context: typer.Context,
    model: opt.ModelOrConfig = None,
    name: opt.Name = None,
    devices: Devices = None,
    engine: EngineName = None,
    engine_option: EngineOptions = None,
    workers: opt.ServeWorkers = None,
    worker_python: WorkerPython = None,
    instances: opt.Instances = None,
    share_weights: ShareWeights = False,
    batch_axis: opt.BatchAxis = None,
    precision: opt.Precision = None,
    max_batch_size: opt.MaxBatchSize = None,
    max_queue_delay_ms: opt.MaxQueueDelay = None,
    max_queue_size: opt.MaxQueueSize = None,
    timeout_ms: opt.Timeout = None,
    host: opt.Host = None,
    port: opt.Port = None,
    grpc_port: opt.GrpcPort = None,
    token_file: opt.TokenFile = None,
    tls_cert: opt.TlsCert = None,
    tls_key: opt.TlsKey = None,
    shared_memory_prefix: opt.SharedMemoryPrefix = None,
    access_log: opt.AccessLog = False,
    trace: opt.TraceFile = None,
    allow_control: opt.AllowControl = False,
    check: opt.Check = False,
    draw: opt.Draw = None,
    schema: opt.Schema = False,
) -> None:
    """Serve models over HTTP and gRPC, by the Open Inference Protocol; requests are batched over all devices.

    One model needs options only. CONFIG.yml describes several models, pipelines, models that draw pictures, and further
    settings; options of the server, from --host on, then replace those of the file. Example:

    ascend-parallel serve model.onnx --devices cpu:0,1 --max-batch-size 32
    """
    check_extra()
    if schema:
        print_schema()
    else:
        serve_config(model, context.params, check=check, draw=draw)


def serve_config(model: str | None, params: Mapping[str, Any], *, check: bool, draw: Path | None) -> None:
    """Serve, or only check or draw what would be served."""
    config = make_config(model, params)
    if draw is not None:
        draw_pipelines(config, draw)
    if check:
        print_checked(config)
    if check or draw is not None:
        return
    from ascend_parallel.serving.server import run

    run(config, lambda: make_config(model, params))


def check_extra() -> None:
    """Check that the extra is installed; raises UsageError."""
    for module in _MODULES:
        check_installed("serve", module, _INSTALL)


def make_config(model: str | None, params: Mapping[str, Any]) -> ServerConfig:
    """Return the configuration that MODEL and the options describe, or CONFIG.yml with the options of the server.

    Raises:
        UsageError: something is wrong; all of it is told.
    """
    from ascend_parallel.serving.config import ServerSettings
    from ascend_parallel.serving.model_config import BatchingConfig, ModelConfig

    told = read_params(params)
    of_server = {name: told[name] for name in ServerSettings.model_fields if name in told}
    of_model = {name: told[name] for name in ModelConfig.model_fields if name in told}
    batching = {name: told[name] for name in BatchingConfig.model_fields if name in told}
    if model is None:
        raise UsageError("there is nothing to serve; expected a MODEL or a CONFIG.yml")
    if not model.endswith(_CONFIG_SUFFIXES):
        return _checked({**of_server, "models": [{"path": model, **of_model, "batching": batching}]})
    if of_model or batching:
        name = next(iter({**of_model, **batching}))
        raise UsageError(f"{name} is for a MODEL, and {model} describes its own: write {name} there")
    return replace_settings(read_file(model), of_server)


def read_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, by the names of the settings, with values as a file has them."""
    read: dict[str, Any] = {
        **params,
        "engine_options": read_options(params["engine_option"]),
        "batch_axes": read_batch_axes(params["batch_axis"]),
    }
    told = {name: value for name, value in read.items() if value is not None and value is not False and value != {}}
    return {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in told.items()}


def read_file(path: str) -> ServerConfig:
    """Return the configuration of a file; what is wrong in it is printed, a line each, for editors and people."""
    from ascend_parallel.serving.config_file import read_config

    try:
        return read_config(path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        count = len(error.problems)
        what = "an error" if count == 1 else f"{count} errors"
        raise UsageError(f"{path} has {what}; nothing was started") from error


def replace_settings(config: ServerConfig, settings: Mapping[str, Any]) -> ServerConfig:
    """Return a configuration with these settings of the server in place of its own."""
    from ascend_parallel.serving.config import ServerSettings
    from ascend_parallel.serving.config_checks import check_settings

    own = {name: value for name, value in config if name in ServerSettings.model_fields}
    problems = check_settings({**own, **settings})[1]
    if problems:
        raise _refusal(problems)
    return config.model_copy(update=dict(settings))


def _checked(data: dict[str, Any]) -> ServerConfig:
    from ascend_parallel.serving.config_checks import check_config

    config, problems = check_config(data)
    if config is None:
        raise _refusal(problems)
    return config


def _refusal(problems: Sequence[Problem]) -> UsageError:
    return UsageError("; ".join(_CONFIG_PATH.sub("", problem.message) for problem in problems))


def print_schema() -> None:
    """Print the JSON schema of configuration files."""
    from ascend_parallel.serving.config_checks import make_schema

    print(json.dumps(make_schema(), indent=2))


def print_checked(config: ServerConfig) -> None:
    """Print one line per model, pipeline, op and image model of a configuration that is right."""
    for model in config.models:
        print(describe_model(model))
    for pipeline in config.pipelines:
        ops = {op.name: op for op in pipeline.ops}
        print(f"{pipeline.name} {pipeline.version}: {len(ops)} {'op' if len(ops) == 1 else 'ops'}")
        for name in pipeline.graph().ops:
            print(f"  {name}: {describe_op(ops[name])}")
    for image in config.images:
        print(describe_image_model(image))


def draw_pipelines(config: ServerConfig, path: Path) -> None:
    """Draw the pipelines of a configuration; say what was written."""
    from ascend_parallel.pipelines.draw import draw

    written = draw(config.pipelines, path)
    print(f"wrote {written}")
    if written != path:
        print(
            f"graphviz is not installed, so this is its text: dot -T{path.suffix[1:]} {written} -o {path} draws it",
            file=sys.stderr,
        )


def describe_model(model: ModelConfig) -> str:
    """Return what is served, and where: ``mlp 1: mlp.onnx on cpu:0, cpu:1, batches of at most 16 rows``."""
    return f"{model.name} {model.version}: {_describe_places(model)}"


def describe_op(op: OpConfig) -> str:
    """Return what an op is, and where: ``ops.py:Cut in 2 processes on cpu:0, batches of at most 16 requests``."""
    from ascend_parallel.pipelines.op_runner import op_devices

    if op.python is None:
        return _describe_places(op.model())
    devices = op_devices(op)
    count = op.concurrency or len(devices)
    around = "" if op.path is None else f" around {op.path}"
    processes = "" if count == 1 else f" in {count} processes"
    places = ", ".join(map(str, devices[:count]))
    return f"{op.python}{around}{processes} on {places}, batches of at most {op.batching.max_batch_size} requests"


def _describe_places(model: ModelConfig) -> str:
    from ascend_parallel import ParallelPredictUtils

    devices = ", ".join(map(str, ParallelPredictUtils(**model.runner_arguments()).devices))
    times = "" if model.instances == 1 else f" ({model.instances} instances each)"
    most = model.batching.max_batch_size
    return f"{model.path} on {devices}{times}, batches of at most {most} rows"


def describe_image_model(model: ImageConfig) -> str:
    """Return what draws pictures, and where: ``sd21: pictures by out/sd21 (mslite) on ascend:0, ascend:1, ...``."""
    from ascend_parallel import ParallelPredictUtils
    from ascend_parallel.serving.images.parts import read_folder, runner_arguments

    folder = read_folder(model.folder, model.engine)
    devices = ", ".join(map(str, ParallelPredictUtils(**runner_arguments(model, folder)).devices))
    what = f"pictures by {model.folder} ({folder.engine}) on {devices}"
    return f"{model.name}: {what}, batches of at most {model.max_batch_size} rows, {model.steps} steps"
