"""What files of Paddle Serving's pipelines import, in place of ``paddle_serving_server``.

The stand-ins are used even where the real package is installed: a user's file starts the real server when it is
imported. Here, starting a server is noted only, and the file's ops run in workers.
"""

from __future__ import annotations

import enum
import itertools
import sys
import types
from typing import Any, Dict, List, Optional, Tuple

from .paddle_messages import ChannelData, ChannelDataType, Request, Response, Tensor, pack_response

#: The name that Paddle Serving gives the request, as the input of the first ops.
REQUEST_NAME = "@DAGExecutor"
#: The packages in whose place the stand-ins are imported.
PACKAGES = ("paddle_serving_server", "paddle_serving_server_gpu")

_op_numbers = itertools.count()


class CustomExceptionCode(enum.Enum):
    """The codes of Paddle Serving's errors."""

    OK = 0
    PRODUCT_ERROR = 50
    NOT_IMPLEMENTED = 3000
    CLOSED_ERROR = 3001
    NO_SERVICE = 3002
    INIT_ERROR = 3003
    CONF_ERROR = 4000
    INPUT_PARAMS_ERROR = 5000
    TIMEOUT = 6000
    TYPE_ERROR = 7000
    RPC_PACKAGE_ERROR = 8000
    CLIENT_ERROR = 9000
    UNKNOW = 10000


class ProductErrCode(enum.Enum):
    """The base of users' own codes, 51 to 99."""


class CustomException(Exception):
    """Raised by an op: its request gets this code and text.

    Attributes:
        code: the number of the code.
        text: what the client is told.
    """

    def __init__(self, exceptionCode: Any, errorMsg: str, isSendToUser: bool = False) -> None:
        super().__init__(errorMsg)
        self.code = int(exceptionCode.value)
        self.text = str(errorMsg)


class Op:
    """The base class of users' ops.

    Attributes:
        arguments: those that the constructor got, but for ``name`` and ``input_ops``.
    """

    def __init__(
        self,
        name: Optional[str] = None,
        input_ops: Any = (),
        server_endpoints: Any = None,
        fetch_list: Any = None,
        client_config: Any = None,
        client_type: Any = None,
        concurrency: Any = None,
        timeout: Any = None,
        retry: Any = 0,
        batch_size: Any = None,
        auto_batching_timeout: Any = None,
        local_service_handler: Any = None,
        jump_to_ops: Any = (),
    ) -> None:
        self.name = "Op%d" % next(_op_numbers) if name is None else name
        given = {
            "server_endpoints": server_endpoints,
            "fetch_list": fetch_list,
            "client_config": client_config,
            "client_type": client_type,
            "concurrency": concurrency,
            "timeout": timeout,
            "retry": retry or None,
            "batch_size": batch_size,
            "auto_batching_timeout": auto_batching_timeout,
            "local_service_handler": local_service_handler,
            "jump_to_ops": [getattr(op, "name", op) for op in _to_list(jump_to_ops)] or None,
        }
        self.arguments: Dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        self.concurrency = concurrency
        self.with_serving = False
        self.dynamic_shape_info: Dict[str, Any] = {}
        self._run_model: Any = None
        self.set_input_ops(input_ops)
        self.set_dynamic_shape_info()

    def set_dynamic_shape_info(self) -> None:
        """Users' classes set ``self.dynamic_shape_info`` for TensorRT here; nothing reads it."""

    def set_input_ops(self, ops: Any) -> None:
        """Set the ops that this one reads."""
        self._input_ops = _to_list(ops)

    def get_input_ops(self) -> List[Any]:
        """Return the ops that this one reads."""
        return self._input_ops

    def init_op(self) -> None:
        """Users' classes prepare themselves here."""

    def preprocess(self, input_dicts: Dict[str, Any], data_id: int = 0, log_id: int = 0) -> Tuple[Any, bool, Any, str]:
        """Return the only input as it is; raises ValueError where there are several."""
        if len(input_dicts) != 1:
            raise ValueError(
                "it reads several ops (%s), so it needs a preprocess of its own" % ", ".join(map(str, input_dicts))
            )
        return next(iter(input_dicts.values())), False, None, ""

    def process(self, feed_batch: List[Any], typical_logid: int = 0) -> Tuple[Any, int, str]:
        """Run the model on the first feed; return its outputs, 0 and ""."""
        return self._run_model(feed_batch[0]), 0, ""

    def postprocess(self, input_data: Any, fetch_data: Any, data_id: int = 0, log_id: int = 0) -> Tuple[Any, Any, str]:
        """Return the outputs as they are, and nothing of mini-batches."""
        return fetch_data if isinstance(fetch_data, dict) else {}, None, ""


def _to_list(ops: Any) -> List[Any]:
    return list(ops) if isinstance(ops, (list, tuple)) else [] if ops is None else [ops]


class RequestOp(Op):
    """What the first ops read: the request."""

    def __init__(self) -> None:
        super().__init__(name=REQUEST_NAME)
        self.init_op()

    def proto_tensor_2_numpy(self, tensor: Tensor) -> Tuple[Any, Any]:
        """Return the array of a tensor of the request, and no level of detail."""
        return tensor.array, None

    def unpack_request_package(self, request: Request) -> Tuple[Dict[str, Any], int, Any, str]:
        """Return the inputs by name, the client's number of the request, and no error."""
        inputs = dict(zip(request.key, request.value))
        inputs.update({tensor.name: tensor.array for tensor in request.tensors})
        return inputs, request.logid, None, ""


class ResponseOp(Op):
    """What reads the last op."""

    def __init__(self, input_ops: Any) -> None:
        super().__init__(name=REQUEST_NAME, input_ops=input_ops)
        self.init_op()
        self.is_pack_tensor = False

    def set_pack_format(self, isTensor: bool = False) -> None:
        """Note it; the real ResponseOp of 0.9.0 does no more."""
        self.is_pack_tensor = isTensor

    def pack_response_package(self, channeldata: ChannelData) -> Response:
        """Return the response with what the last op gave."""
        return pack_response(channeldata)


class WebService:
    """The base class of users' services; it starts nothing."""

    #: The services that were made, in order.
    made: List["WebService"] = []

    def __init__(self, name: str = "default_service") -> None:
        self.name = name
        self.config: Any = None
        WebService.made.append(self)

    def get_pipeline_response(self, read_op: Op) -> Any:
        """Users' classes build their ops here and return the last one."""
        return None

    def prepare_pipeline_config(self, yml_file: Any = None, yml_dict: Any = None) -> None:
        """Note the configuration: a path, or a dict."""
        self.config = yml_file if yml_file is not None else yml_dict

    def run_service(self) -> None:
        """Start nothing."""


class PipelineServer:
    """The server of files that build their ops without a WebService; it starts nothing."""

    #: The servers that were made, in order.
    made: List["PipelineServer"] = []

    def __init__(self, name: Optional[str] = None) -> None:
        self.name = name
        self.config: Any = None
        self.response_op: Any = None
        PipelineServer.made.append(self)

    def set_response_op(self, response_op: ResponseOp) -> None:
        """Note what reads the last op."""
        self.response_op = response_op

    def prepare_server(self, yml_file: Any = None, yml_dict: Any = None) -> None:
        """Note the configuration: a path, or a dict."""
        self.config = yml_file if yml_file is not None else yml_dict

    def run_server(self) -> None:
        """Start nothing."""


_ERRORS = {
    "CustomException": CustomException,
    "CustomExceptionCode": CustomExceptionCode,
    "ChannelDataErrcode": CustomExceptionCode,
    "ProductErrCode": ProductErrCode,
}
_OPS = {"Op": Op, "RequestOp": RequestOp, "ResponseOp": ResponseOp}
_MODULES: Dict[str, Dict[str, Any]] = {
    "": {},
    ".web_service": {"WebService": WebService, "Op": Op},
    ".pipeline": {**_OPS, "PipelineServer": PipelineServer},
    ".pipeline.operator": {**_OPS, **_ERRORS},
    ".pipeline.pipeline_server": {"PipelineServer": PipelineServer},
    ".pipeline.error_catch": _ERRORS,
    ".pipeline.channel": {**_ERRORS, "ChannelData": ChannelData, "ChannelDataType": ChannelDataType},
    ".pipeline.proto": {},
    ".pipeline.proto.pipeline_service_pb2": {"Request": Request, "Response": Response, "Tensor": Tensor},
}


def install() -> None:
    """Make the stand-ins importable in this process under the names of the real modules."""
    for package in PACKAGES:
        for suffix, names in _MODULES.items():
            sys.modules[package + suffix] = _make_module(package + suffix, names)
        for suffix in _MODULES:
            parent, _, name = (package + suffix).rpartition(".")
            if suffix:
                setattr(sys.modules[parent], name, sys.modules[package + suffix])


def _make_module(full_name: str, names: Dict[str, Any]) -> types.ModuleType:
    module = types.ModuleType(full_name, "A stand-in of ascend_parallel.")
    module.__path__ = []  # a package, for imports of what is in it
    vars(module).update(names)

    def refuse(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            "ascend_parallel stands in for Paddle Serving here, and its %s has no %s (it has: %s); take it out of the "
            "file" % (full_name, name, ", ".join(names) or "web_service, pipeline")
        )

    vars(module)["__getattr__"] = refuse
    return module
