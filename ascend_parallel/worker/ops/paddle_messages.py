"""What users' subclasses of Paddle Serving's RequestOp and ResponseOp get and return: requests, responses, data.

In the real server, the first two are messages of protobuf. Here they are plain objects with the same attributes.
"""

from __future__ import annotations

import enum
import sys
from typing import Any, Dict, List, Optional

import numpy as np


class Tensor:
    """A tensor of a request, read already; only ``proto_tensor_2_numpy`` reads it.

    Attributes:
        name: of the input.
        array: its value.
    """

    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name = name
        self.array = array


class Request:
    """A request: ``value[i]`` is the text of ``key[i]``."""

    def __init__(self, inputs: Optional[Dict[str, Any]] = None, logid: int = 0) -> None:
        texts = {name: value for name, value in (inputs or {}).items() if not isinstance(value, np.ndarray)}
        self.key: List[str] = list(texts)
        self.value: List[Any] = list(texts.values())
        self.tensors = [Tensor(name, value) for name, value in (inputs or {}).items() if name not in texts]
        self.name = self.method = self.clientip = ""
        self.logid = logid


class Response:
    """A response: ``value[i]`` is the text of ``key[i]``; or ``err_no`` and ``err_msg``."""

    def __init__(self, err_no: int = 0, err_msg: str = "", key: Any = (), value: Any = ()) -> None:
        self.err_no = err_no
        self.err_msg = err_msg
        self.key: List[str] = list(key)
        self.value: List[str] = list(value)
        self.tensors: List[Any] = []


class ChannelDataType(enum.Enum):
    """What data is between two ops."""

    DICT = 0
    CHANNEL_NPDATA = 1
    ERROR = 2


class ChannelData:
    """What the last op gave for one request.

    Attributes:
        datatype: the value of a ChannelDataType.
        id: of the request, in the server.
        log_id: of the request, by its client.
        error_code: 0.
    """

    def __init__(self, outputs: Dict[str, Any], data_id: int, log_id: int) -> None:
        is_arrays = all(isinstance(value, np.ndarray) for value in outputs.values())
        self.datatype = (ChannelDataType.CHANNEL_NPDATA if is_arrays else ChannelDataType.DICT).value
        self.npdata = outputs if is_arrays else None
        self.dictdata = None if is_arrays else outputs
        self.id = data_id
        self.log_id = log_id
        self.error_code = 0
        self.error_info = ""
        self.prod_error_code = self.prod_error_info = None
        self._outputs = outputs

    def parse(self) -> Dict[str, Any]:
        """Return what the op gave."""
        return self._outputs


def pack_response(data: ChannelData) -> Response:
    """Return the response with data that is all text, or all arrays: what ResponseOp does."""
    outputs = data.parse()
    if data.datatype == ChannelDataType.DICT.value:
        wrong = [name for name, value in outputs.items() if not isinstance(value, str)]
        if wrong:
            text = "the output %r is of type %s; expected text" % (wrong[0], type(outputs[wrong[0]]).__name__)
            return Response(7000, text)
        return Response(key=outputs, value=outputs.values())
    with np.printoptions(threshold=sys.maxsize):
        return Response(key=outputs, value=[repr(value) for value in outputs.values()])
