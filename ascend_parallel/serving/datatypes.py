"""Names of element types in the Open Inference Protocol, and numpy's.

Source: the Open Inference Protocol, version 2 ("Tensor Data Types"). FP16 has no JSON form. BYTES is for pipelines
whose Python takes text: no engine does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ascend_parallel.errors import AscendParallelError, ShapeError

#: The dtype of BYTES: objects, each a ``bytes``; see bytes_tensor.py.
BYTES = np.dtype(object)
#: Datatype of numbers and booleans -> numpy dtype, little-endian as on the wire.
DTYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES = {**{dtype: name for name, dtype in DTYPES.items()}, BYTES: "BYTES"}
_BY_NAME = {name: dtype for dtype, name in DATATYPES.items()}


def find_dtype(input_name: str, datatype: object) -> np.dtype[Any]:
    """Return the dtype of an input's datatype; raises ShapeError where there is none."""
    dtype = _BY_NAME.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise ShapeError(f"input {input_name!r} has the datatype {datatype!r}; expected one of {', '.join(_BY_NAME)}")
    return dtype


def find_datatype(name: str, dtype: Any) -> str:
    """Return the datatype of an output, or of a model's tensor."""
    datatype = DATATYPES.get(np.dtype(dtype).newbyteorder("="))
    if datatype is None:
        raise AscendParallelError(f"{name!r} is {np.dtype(dtype)}, for which the protocol has no datatype")
    return datatype
