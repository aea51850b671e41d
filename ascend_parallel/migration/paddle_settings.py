"""Paddle Serving's settings that have no counterpart: what each is worth a word about, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ascend_parallel.errors import ConfigError

from .paddle_source import PaddleConfig


class Left(NamedTuple):
    """A setting that is left out.

    Attributes:
        text: what it did, and what to do; the rest of a sentence that begins with the setting.
        neutral: values that change nothing, of which nothing is told.
    """

    text: str
    neutral: tuple[Any, ...] = ()


_METRICS = "has no counterpart: the server counts what it does, see GET /metrics on its HTTP port"
_PLAIN_CPU = "has no counterpart: ONNX Runtime has kernels of its own for CPUs; or write devices: openvino:0"
_CALIBRATED = (
    "has no counterpart: make the int8 model once by ascend-parallel convert MODEL.onnx --to onnx --precision int8 "
    "--calibration FILE.npz, and name that in path"
)
_KEY = "has no counterpart: decrypt the model before it is served"

#: Settings of the server that are read elsewhere have None.
SERVER: Mapping[str, Left | None] = {
    "http_port": None,
    "rpc_port": None,
    "build_dag_each_worker": None,
    "worker_num": Left(
        "has no counterpart: it is how many requests Paddle Serving has at a time. Here any number wait and run, up to "
        "the pipeline's max_queue_size"
    ),
    "grpc_gateway_port": Left("has no counterpart: HTTP is on port, gRPC on grpc_port"),
    "dag": None,
    "op": None,
}
DAG: Mapping[str, Left | None] = {
    "is_thread_op": Left("is left out: ops are processes here, not threads of one process", (False,)),
    "retry": Left("has no counterpart for a whole request: set retry of the ops that may be slow", (1,)),
    "client_type": Left("is left out: models run in the processes of their ops", ("brpc",)),
    "use_profile": Left("has no counterpart: write trace: FILE.json to see where the time of requests goes", (False,)),
    "channel_size": Left(
        "has no counterpart: max_queue_size of the pipeline bounds the requests in all of it, and further ones are "
        "refused at once",
        (0,),
    ),
    "channel_recv_frist_arrive": Left(
        "has no counterpart: an op begins when all that it reads is there; the first that comes is not enough",
        (False,),
    ),
    "tracer": Left(_METRICS, ({"interval_s": -1}, {"interval_s": 0})),
    "enable_prometheus": Left(_METRICS, (False,)),
    "prometheus_port": Left(_METRICS),
}
OP: Mapping[str, Left | None] = {
    "concurrency": None,
    "timeout": None,
    "retry": None,
    "batch_size": None,
    "auto_batching_timeout": None,
    "fetch_list": None,
    "local_service_conf": None,
    "server_endpoints": Left(
        "has no counterpart: the op called a model of another server. Name the model in path, or call that server in a "
        "process() of the op's own",
        ([],),
    ),
    "client_config": Left("is left out: the model tells its inputs and outputs"),
    "client_type": Left("is left out: models run in the processes of their ops", ("brpc", "local_predictor")),
    "use_encryption_model": Left(_KEY, (False,)),
    "encryption_key": Left(_KEY, ("",)),
}
LOCAL: Mapping[str, Left | None] = {
    "model_config": None,
    "device_type": None,
    "devices": None,
    "thread_num": None,
    "fetch_list": None,
    "precision": None,
    "client_type": Left("is left out", ("brpc", "grpc", "local_predictor")),
    "workdir": Left("is left out: no server with a folder of its own is started", ("",)),
    "mem_optim": Left("is left out: ONNX Runtime always plans its memory", (True,)),
    "ir_optim": Left("is left out: ONNX Runtime always optimizes the graph", (True, False)),
    "use_calib": Left(_CALIBRATED, (False,)),
    "use_mkldnn": Left(_PLAIN_CPU, (False,)),
    "mkldnn_cache_capacity": Left(_PLAIN_CPU, (0,)),
    "mkldnn_op_list": Left(_PLAIN_CPU, ([],)),
    "mkldnn_bf16_op_list": Left(_PLAIN_CPU, ([],)),
    "min_subgraph_size": Left(
        "has no counterpart by this name: write engine_options: {provider_options: {trt_min_subgraph_size: N}}", (3,)
    ),
}


def note_settings(config: PaddleConfig, path: tuple[str, ...], table: Mapping[str, Left | None]) -> None:
    """Tell of all settings below a path that have no counterpart, or are unknown."""
    config.note_unknown(path, table)
    for name, left in table.items():
        value = config.get((*path, name))
        if left is not None and value is not None and value not in left.neutral:
            config.note((*path, name), left.text)


#: What the settings that are read are to be: (type, least value, words).
_WHOLE = (int, None, "a whole number")
_COUNT = (int, 1, "a whole number of at least 1")
_TEXT, _LIST, _FLAG = (str, None, "text"), (list, None, "a list of names"), (bool, None, "True or False")
_FORMS: Mapping[str, tuple[Any, int | None, str]] = {
    "http_port": _WHOLE,
    "rpc_port": _WHOLE,
    "worker_num": _COUNT,
    "build_dag_each_worker": _FLAG,
    "concurrency": _COUNT,
    "timeout": _WHOLE,
    "retry": _COUNT,
    "batch_size": _COUNT,
    "auto_batching_timeout": _WHOLE,
    "fetch_list": _LIST,
    "thread_num": _COUNT,
    "device_type": _WHOLE,
    "devices": ((str, int), None, 'text, such as "0,1"'),
    "precision": _TEXT,
    "model_config": _TEXT,
}


def is_right(name: str, value: Any) -> bool:
    """Whether a setting that is read has a value that it may have."""
    kinds, least, _ = _FORMS[name]
    if isinstance(value, bool) and kinds is not bool:
        return False
    if not isinstance(value, kinds) or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
        return False
    return least is None or value >= least


def check_settings(config: PaddleConfig) -> None:
    """Check the values of all settings that are read; raises ConfigError with all that is wrong."""
    ops = list(config.get(("op",), {}))
    paths: list[tuple[str, ...]] = [(), *(("op", op) for op in ops), *(("op", op, "local_service_conf") for op in ops)]
    problems = []
    for path in paths:
        for name in config.get(path, {}):
            value = config.get((*path, name))
            if name in _FORMS and value is not None and not is_right(name, value):
                problems.append(config.describe((*path, name), f"is {value!r:.100}; expected {_FORMS[name][2]}"))
    if problems:
        raise ConfigError(problems)
