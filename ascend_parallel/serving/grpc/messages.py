"""The messages of the gRPC service.

Their descriptions (``protocol.binpb``, made of the .proto files by ``make protocol``) go to a pool of their own: in the
pool that all modules of a process share, they would clash with those of a client of the same protocol, such as
``tritonclient.grpc``. Read at run time, they fit every version of protobuf, which generated modules do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from ascend_parallel.errors import UsageError

#: The names of the services.
INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
PADDLE = "baidu.paddle_serving.pipeline_serving.PipelineService"


def _read_pool() -> DescriptorPool:
    pool = DescriptorPool()
    files = FileDescriptorSet.FromString(Path(__file__).with_name("protocol.binpb").read_bytes())
    for file in files.file:
        pool.Add(file)
    return pool


_pool = _read_pool()


def message_class(name: str) -> Any:
    """Return the class of a message, such as ``inference.ModelInferRequest``."""
    return GetMessageClass(_pool.FindMessageTypeByName(name))


def method_names(service: str) -> list[str]:
    """Return the names of a service's methods."""
    return [method.name for method in _pool.FindServiceByName(service).methods]


def parse(kind: Any, data: bytes) -> Any:
    """Return a message of a class; raises UsageError."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise UsageError(f"the message is no {kind.DESCRIPTOR.name}") from None


def serialize(kind: Any, fields: dict[str, Any]) -> bytes:
    """Return the bytes of a message of a class, with fields as JSON has them."""
    data: bytes = ParseDict(fields, kind()).SerializeToString()
    return data


ModelInferRequest = message_class("inference.ModelInferRequest")
ModelInferResponse = message_class("inference.ModelInferResponse")
ModelStreamInferResponse = message_class("inference.ModelStreamInferResponse")
HealthCheckRequest = message_class("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = message_class("grpc.health.v1.HealthCheckResponse")
PaddleRequest = message_class("baidu.paddle_serving.pipeline_serving.Request")
PaddleResponse = message_class("baidu.paddle_serving.pipeline_serving.Response")
