"""Users' own RequestOp and ResponseOp of Paddle Serving, each an op of the pipeline.

The former gets the request and returns what the ops read that read the request there. The latter gets what the last op
gave and makes the response of it; errors of ops do not go through it.
"""

from __future__ import annotations

from typing import Any, Dict, List

from .adapter import OpAdapter, Prepared
from .failures import PRODUCT, RequestFailure, WrongAnswer
from .interface import Skip
from .paddle_calls import call, read_tuple, refuse
from .paddle_messages import ChannelData, Request
from .paddle_stand_ins import RequestOp, ResponseOp
from .user_op import check_answer, describe

_UNPACKED = ("dict", "log_id", "prod_errcode", "prod_errinfo")
_PACKED = "a pipeline_service_pb2.Response with a text in value for each name in key"


class PaddleRequestOp(OpAdapter):
    """A subclass of RequestOp."""

    last_step = "unpack_request_package"

    def __init__(self, op: RequestOp) -> None:
        self.target = self._op = op

    def preprocess(self, entry: Dict[str, Any]) -> Prepared:
        """Unpack a request."""
        (inputs,) = entry["inputs"].values()
        returned = call(self._op.unpack_request_package, Request(inputs, entry["log_id"]))
        values, _log_id, code, text = read_tuple("unpack_request_package", returned, *_UNPACKED)
        refuse(code, text)
        return Prepared([Skip(values)], False)

    def postprocess(self, entry: Dict[str, Any], prepared: Prepared, outputs: List[Any]) -> Dict[str, Any]:
        """Return what was unpacked."""
        return check_answer("unpack_request_package", outputs[0])


class PaddleResponseOp(OpAdapter):
    """A subclass of ResponseOp."""

    last_step = "pack_response_package"

    def __init__(self, op: ResponseOp) -> None:
        self.target = self._op = op

    def preprocess(self, entry: Dict[str, Any]) -> Prepared:
        """Pack a response."""
        if len(entry["inputs"]) != 1:
            raise WrongAnswer("it reads several ops (%s); a ResponseOp reads one" % ", ".join(entry["inputs"]))
        (outputs,) = entry["inputs"].values()
        data = ChannelData(outputs, entry["data_id"], entry["log_id"])
        return Prepared([Skip(call(self._op.pack_response_package, data))], False)

    def postprocess(self, entry: Dict[str, Any], prepared: Prepared, outputs: List[Any]) -> Dict[str, Any]:
        """Return what was packed; raise its error."""
        (response,) = outputs
        keys, values = getattr(response, "key", None), getattr(response, "value", None)
        if not isinstance(keys, list) or not isinstance(values, list) or len(keys) != len(values):
            raise WrongAnswer("pack_response_package returned %s; expected %s" % (describe(response), _PACKED))
        if response.err_no:
            raise RequestFailure(PRODUCT, str(response.err_msg), int(response.err_no))
        return dict(zip(keys, values))
