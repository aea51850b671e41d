"""Whether traces go to OpenTelemetry, and where: by the variables that all its programs know. Imports it only then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ascend_parallel.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER = "OTEL_TRACES_EXPORTER"
_INSTALL = "pip install 'ascend-parallel[otel]'"
#: Where packages register their exporters.
_EXPORTERS = "opentelemetry_traces_exporter"
_SERVICE_NAME = "ascend_parallel"


def wants_spans(environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for traces: it names an exporter, or an endpoint."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environ.get(_EXPORTER)
    return exporter != "none" if exporter else any(environ.get(name) for name in _ENDPOINTS)


def make_provider(environ: Mapping[str, str]) -> TracerProvider:
    """Return what makes spans and sends them where the environment says.

    Raises:
        UsageError: OpenTelemetry or the exporter is not installed, or a variable has a value that it does not take.
    """
    asking = next(name for name in (_EXPORTER, *_ENDPOINTS) if environ.get(name))
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise UsageError(
            f"{asking} is set, but OpenTelemetry is not installed: {_INSTALL}, or set OTEL_SDK_DISABLED=true"
        ) from None
    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {SERVICE_NAME: _SERVICE_NAME})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # Spans.close does it, in bounded time
    for name in (environ.get(_EXPORTER) or "otlp").split(","):
        provider.add_span_processor(BatchSpanProcessor(_make_exporter(name.strip(), environ)))
    return provider


def _make_exporter(name: str, environ: Mapping[str, str]) -> Any:
    """Return an exporter by its name, as the packages that have one register it."""
    from importlib.metadata import entry_points

    if name == "otlp":
        protocol = next((environ[variable] for variable in _PROTOCOLS if environ.get(variable)), "http/protobuf")
        known = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
        if protocol not in known:
            raise UsageError(f"{_PROTOCOLS[1]} is {protocol!r}; expected one of {', '.join(known)}")
        name = known[protocol]
    installed = {entry.name: entry for entry in entry_points(group=_EXPORTERS)}
    if name not in installed:
        raise UsageError(
            f"{_EXPORTER}: there is no exporter {name!r} (opentelemetry-exporter-... not installed); there are: "
            f"{', '.join(sorted(installed))}"
        )
    return installed[name].load()()
