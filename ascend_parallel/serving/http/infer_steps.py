"""What each infer request over HTTP goes through, whether our protocol class received it or an ASGI server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import NotFoundError
from ascend_parallel.serving.infer_head import InferHead
from ascend_parallel.serving.request import InferRequest
from ascend_parallel.serving.rest.infer_answer import Answer, write_answer
from ascend_parallel.serving.rest.infer_body import read_arrays, read_head
from ascend_parallel.serving.served import Served
from ascend_parallel.serving.service import Service

from .body import Body, RepeatedBody
from .request_id import read_request_id

#: Bodies whose length has no more digits need little memory, and are not counted.
UNCOUNTED_DIGITS = 4


def prepare_body(service: Service, headers: Mapping[bytes, bytes], body: Body, model: str, version: str) -> None:
    """Check what the headers say of a body, and make room for it.

    The tensors of a large body will arrive where the workers read them.

    Raises:
        TooLargeError, OverloadedError: it is too large, or those of all requests are.
        UsageError: it is compressed in an unknown way.
    """
    body.check_headers()
    length = headers.get(b"content-length")
    if length is not None and len(length) > UNCOUNTED_DIGITS:
        body.reserve(int(length))
        with contextlib.suppress(NotFoundError):  # which the client will be told
            body.receive_in_place(service.repository.find(model, version))


def read_request(
    service: Service,
    model: Served,
    headers: Mapping[bytes, bytes],
    body: Body | RepeatedBody,
    on_done: Callable[[InferRequest], None],
) -> tuple[InferHead, InferRequest]:
    """Return what the JSON says, and the request for the model's queue; raises UsageError."""
    text, binary, start = body.finish()
    head = read_head(text)
    arrays = service.fill_regions(model, head, read_arrays(head, binary, start))
    if not head.binary_bytes:
        head = head._replace(inputs=())  # lists take more memory than arrays
    if head.outputs is not None:
        model.check_outputs([ref.name for ref in head.outputs])
    request = InferRequest(head.names, arrays, on_done, id=head.id, template=head)
    if b"x-request-id" in headers and not head.id:
        request.id = read_request_id(headers)
    if head.timeout_s is not None:
        request.deadline_s = request.arrived_s + head.timeout_s
    context = headers.get(b"traceparent")
    if context is not None:
        request.trace_context = context.decode("latin-1")
    return head, request


def make_answer(service: Service, model: Served, head: InferHead, outputs: Mapping[str, Array]) -> Answer:
    """Return the body of the response; outputs for shared-memory regions are written there. Raises UsageError."""
    if head.has_regions:
        service.fill_output_regions(head, outputs)
    return write_answer(model.name, model.version, head, outputs)
