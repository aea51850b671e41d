"""OpenTelemetry's spans of requests: each with its time in the queue and in the engine, as children of the client's."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .log import logger
from .observed_batcher import ObservedCall
from .request import InferRequest
from .server_trace import compute_span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

#: How long the last spans may take.
CLOSE_TIMEOUT_S = 5.0


class Spans:
    """Makes the spans of each request once it is answered, from the times that were noted."""

    def __init__(self, provider: TracerProvider) -> None:
        """Take what sends them."""
        self._provider = provider
        self._tracer = provider.get_tracer("ascend_parallel.serving")
        self._propagator = TraceContextTextMapPropagator()
        self._open: dict[InferRequest, trace.Span] = {}  # of pipelines

    def begin_request(self, model: str, version: str, request: InferRequest) -> None:
        """Begin the span of a pipeline's request: those of its ops are its children."""
        span = self._open[request] = self._start(model, request, time.time_ns() - time.monotonic_ns())
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        request.trace_context = carrier.get("traceparent", request.trace_context)

    def _start(self, model: str, request: InferRequest, offset_ns: int) -> trace.Span:
        parent = None
        if request.trace_context:
            parent = self._propagator.extract({"traceparent": request.trace_context})
        arrived_ns = offset_ns + int(request.arrived_s * 1e9)
        kind = SpanKind.INTERNAL if "/" in model else SpanKind.SERVER  # an op of a pipeline has a slash in its name
        return self._tracer.start_span(f"infer {model}", parent, kind, start_time=arrived_ns)

    def note_request(self, model: str, version: str, request: InferRequest, call: ObservedCall | None) -> None:
        """Make the spans of a request that was answered."""
        offset_ns = time.time_ns() - time.monotonic_ns()  # spans have the time of day
        span = self._open.pop(request, None) or self._start(model, request, offset_ns)
        if span.is_recording():
            span.set_attribute("model.name", model)
            span.set_attribute("model.version", version)
            span.set_attribute("request.id", request.id)
            span.set_attribute("rows", request.rows)
            if request.error is not None:
                span.record_exception(request.error)
                span.set_status(Status(StatusCode.ERROR, str(request.error)))
            if call is not None and call.tasks:
                self._add_phases(span, offset_ns + int(request.arrived_s * 1e9), offset_ns, call)
        span.end(offset_ns + int(request.done_s * 1e9))

    def _add_phases(self, span: trace.Span, arrived_ns: int, offset_ns: int, call: ObservedCall) -> None:
        """Make the children of a request's span."""
        within = trace.set_span_in_context(span)
        started_ns, finished_ns = (offset_ns + at_ns for at_ns in compute_span(call.tasks))
        self._tracer.start_span("queue", within, start_time=arrived_ns).end(started_ns)
        compute = self._tracer.start_span("compute", within, start_time=started_ns)
        compute.set_attribute("batch.rows", call.rows)
        compute.set_attribute("batch.requests", len(call.requests))
        compute.set_attribute("workers", sorted({task.worker for task in call.tasks}))
        compute.end(finished_ns)

    def note_batch(self, model: str, version: str, call: ObservedCall) -> None:
        """Do nothing: a batch is told with its requests."""

    def close(self) -> None:
        """Send what was not sent yet, within a few seconds: a collector that is gone does not keep the server."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(CLOSE_TIMEOUT_S)
        if sending.is_alive():
            logger.warning("the collector of traces does not answer; the last spans are lost")
