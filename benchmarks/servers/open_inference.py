"""The Open Inference Protocol v2 over HTTP with the binary tensor extension: one request, one answer."""

from __future__ import annotations

import json

import numpy as np

from .job import Job

#: The header with the length of the JSON part, in front of the tensors' bytes.
LENGTH_HEADER = "Inference-Header-Content-Length"
DATATYPES = {"float32": "FP32", "int64": "INT64"}


def pack(job: Job, *, all_batched: bool = False) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a job's request; the answer shall be binary, too.

    With ``all_batched`` inputs without a batch axis get one, which Triton wants where it batches.
    """
    inputs = [
        {
            "name": name,
            "shape": [*([1] if all_batched and name not in job.batched else []), *array.shape],
            "datatype": DATATYPES[array.dtype.name],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in job.feeds.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(head))}
    return headers, head + job.pack()


def unpack(job: Job, headers: dict[str, str], body: bytes) -> np.ndarray:
    """Return the output in an answer's binary part, flat."""
    length = int(headers[LENGTH_HEADER.lower()])
    (output,) = json.loads(body[:length])["outputs"]
    if output["name"] != job.output:
        raise ValueError(f"the output is named {output['name']!r}; expected {job.output!r}")
    return np.frombuffer(body, job.expected.dtype, offset=length)
