"""What is told of requests: the trace file, OpenTelemetry's spans, and the log."""

import gzip
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
from collections import Counter

import grpc
import numpy as np
import pytest

from .servers import encode_request, serving
from .serving_models import write_factories

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ONE = np.ones((2, 3), np.float32)


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    return write_factories(tmp_path_factory.mktemp("models"))


def infer(server, x, headers=(), **extra):
    """Return (status, headers in lower case, body) of one request."""
    head, body = encode_request({"x": x}, **extra)
    headers = {"Inference-Header-Content-Length": str(head), **dict(headers)}
    status, headers, body = server.request("POST", "/v2/models/m/infer", body, headers)
    return status, {name.lower(): value for name, value in headers.items()}, body


# ---- the trace file


@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_the_trace_file_has_requests_and_batches(factories, tmp_path, workers):
    path = tmp_path / "trace.json"
    arguments = ("--devices", "cpu:0,1", "--name", "m", "--workers", workers, "--max-batch-size", "4")
    with serving(f"{factories}:moody", *arguments, "--trace", path) as server:
        assert infer(server, ONE, id="first")[0] == 200
        assert infer(server, np.ones((10, 3), np.float32), id="large")[0] == 200
        assert infer(server, -ONE, id="bad")[0] == 500
        assert not path.exists()
        assert server.end() == 0
    trace = json.loads(path.read_text())
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    requests = {event["args"]["id"]: event for event in spans if event["cat"] == "request"}
    assert {name: event["args"]["rows"] for name, event in requests.items()} == {"first": 2, "large": 10, "bad": 2}
    assert {name: event["args"]["error"] for name, event in requests.items()} == {
        "first": "",
        "large": "",
        "bad": "EngineError",
    }
    tasks = [event for event in spans if event["cat"] == "compute"]
    rows = Counter()
    for task in tasks:
        rows[task["args"]["batch"]] += task["args"]["rows"]
    assert rows[requests["large"]["args"]["batch"]] == 10 and rows[requests["first"]["args"]["batch"]] == 2
    assert len([task for task in tasks if task["args"]["batch"] == requests["large"]["args"]["batch"]]) > 1
    first = requests["first"]
    phases = [e for e in spans if e["cat"] == "phase" and _within(e, first) and e["tid"] == first["tid"]]
    assert [phase["name"] for phase in phases] == ["queue", "compute", "answer"]
    assert sum(phase["dur"] for phase in phases) == pytest.approx(first["dur"], abs=1)
    names = {event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"}
    assert {"m version 1: requests", "m version 1: devices"} <= names and names & {"cpu:0", "cpu:1"}
    assert trace["otherData"] == {"dropped_requests": 0}


def _within(inner, outer):
    end = outer["ts"] + outer["dur"] + 1
    return outer["ts"] - 1 <= inner["ts"] and inner["ts"] + inner["dur"] <= end


def test_a_trace_keeps_the_latest(tmp_path):
    from ascend_parallel.serving.request import InferRequest
    from ascend_parallel.serving.server_trace import ServerTrace

    trace = ServerTrace(tmp_path / "trace.json", max_kept=3)
    for number in range(5):
        request = InferRequest((), (), lambda request: None, id=str(number))
        request.answer({}, None, request.arrived_s + 1)
        trace.note_request("m", "1", request, None)
    trace.close()
    written = json.loads((tmp_path / "trace.json").read_text())
    assert [event["args"]["id"] for event in written["traceEvents"] if event["ph"] == "X"] == ["2", "3", "4"]
    assert written["otherData"] == {"dropped_requests": 2}


# ---- OpenTelemetry


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes what an OTLP exporter sends."""

    def do_POST(self):
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def collector():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.received = []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_reach_a_collector_within_the_clients_trace(factories, collector):
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    with serving(f"{factories}:moody", "--devices", "cpu:0", "--name", "m", env=env) as server:
        traceparent = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
        assert infer(server, ONE, traceparent, id="good")[0] == 200
        assert infer(server, -ONE, traceparent, id="bad")[0] == 500
        assert infer(server, ONE, {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"}, id="not sampled")[0] == 200
        assert infer(server, ONE, {"traceparent": "nonsense"}, id="alone")[0] == 200
        assert server.end() == 0
    groups = [group for request in collector.received for group in request.resource_spans]
    resource = {item.key: item.value.string_value for item in groups[0].resource.attributes}
    assert resource["service.name"] == "ascend_parallel"
    spans = [span for group in groups for scope in group.scope_spans for span in scope.spans]
    roots = {_attribute(span, "request.id"): span for span in spans if span.name == "infer m"}
    assert roots.keys() == {"good", "bad", "alone"}
    good = roots["good"]
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert roots["alone"].trace_id.hex() != TRACE_ID and roots["alone"].parent_span_id == b""
    assert good.status.code == 0 and roots["bad"].status.code == 2
    assert "a row of -1" in roots["bad"].status.message
    queue, compute = (_child(spans, good, name) for name in ("queue", "compute"))
    assert good.start_time_unix_nano == queue.start_time_unix_nano
    assert queue.end_time_unix_nano == compute.start_time_unix_nano < compute.end_time_unix_nano
    assert compute.end_time_unix_nano <= good.end_time_unix_nano
    assert _attribute(compute, "batch.rows") == 2 and _attribute(compute, "batch.requests") == 1


def test_a_collector_that_does_not_answer_does_not_keep_the_server(factories):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        with serving(f"{factories}:twice", "--devices", "cpu:0", "--name", "m", env=env) as server:
            assert infer(server, ONE)[0] == 200
            assert server.end() == 0
    assert "the collector of traces does not answer; the last spans are lost" in server.lines[-1]


def _attribute(span, name):
    value = next(item.value for item in span.attributes if item.key == name)
    return getattr(value, value.WhichOneof("value"))


def _child(spans, parent, name):
    return next(span for span in spans if span.name == name and span.parent_span_id == parent.span_id)


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318"}, False),
    ],
)
def test_the_usual_variables_switch_spans_on(environ, wanted):
    from ascend_parallel.serving.otel_setup import wants_spans

    assert wants_spans(environ) == wanted


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "zipkinn"},
            r"there is no exporter 'zipkinn' .*; there are: console, .*otlp_proto_http",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            r"OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'; expected one of http/protobuf, grpc",
        ),
    ],
)
def test_an_exporter_that_is_not_there_is_told(environ, message):
    from ascend_parallel.errors import UsageError
    from ascend_parallel.serving.otel_setup import make_provider

    with pytest.raises(UsageError, match=message):
        make_provider(environ)


def test_without_the_extra_it_is_told(monkeypatch):
    from ascend_parallel.errors import UsageError
    from ascend_parallel.serving.otel_setup import make_provider

    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    expected = r"OTEL_TRACES_EXPORTER is set, but OpenTelemetry is not installed: pip install 'ascend-parallel\[otel\]'"
    with pytest.raises(UsageError, match=expected):
        make_provider({"OTEL_TRACES_EXPORTER": "otlp"})


def test_nothing_of_it_is_imported_where_it_is_off():
    code = (
        "import sys, ascend_parallel.serving.server as s\n"
        "assert s.make_observers(None) == []\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr


# ---- the log


@pytest.fixture(scope="module", params=["text", "json"])
def logged(factories, tmp_path_factory, request):
    """A server that logs each request, and what its log holds after some; in either format."""
    path = tmp_path_factory.mktemp("server") / "config.yml"
    path.write_text(
        f"log_format: {request.param}\naccess_log: true\nport: 0\ngrpc_port: 0\n"
        f"models: [{{path: '{factories}:moody', name: m, devices: 'cpu:0'}}]\n"
    )
    answers = {}
    with serving(path) as server:
        infer(server, ONE, id="by-body")
        infer(server, ONE, {"x-request-id": "by-header\xe9"})
        server.request("GET", "/v2/models/m?a=b", headers={"x-request-id": "other"})
        server.request("GET", "/nothing")
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", metadata=[("x-request-id", "rpc")])
        answers["named"] = infer(server, -ONE, id="failed")
        answers["nameless"] = infer(server, -ONE)
        for _ in range(10):
            infer(server, -ONE)
        server.end()
    return request.param, server.lines, answers


def entries(logged):
    """Return the entries of the log as JSON has them; those of the text format as far as the text tells."""
    kind, lines, _ = logged
    if kind == "json":
        return [json.loads(line) for line in lines]
    form = r'\S+ \S+ \S+ - "(?P<call>[^"]*)" (?P<status>\w+) (?P<ms>[\d.]+) ms(?: id (?P<request_id>\S+))?'
    found = [match.groupdict() for line in lines if (match := re.fullmatch(form, line))]
    return [{**entry, "request_id": entry["request_id"] or ""} for entry in found]


def test_each_request_is_logged_in_one_form(logged):
    found = [(e["call"], str(e["status"]), e["request_id"]) for e in entries(logged) if "call" in e]
    assert found[:5] == [
        ("POST /v2/models/m/infer", "200", "by-body"),
        ("POST /v2/models/m/infer", "200", "by-header"),
        ("GET /v2/models/m?a=b", "200", "other"),
        ("GET /nothing", "404", ""),
        ("gRPC ServerLive", "OK", "rpc"),
    ]
    assert len(found) == 5 + 12


def test_a_failure_is_logged_once_with_who_and_why(logged):
    kind, lines, answers = logged
    about = [line for line in lines if "failed (" in line and "request failed " in line]
    assert len(about) == 1, about
    assert "request failed for model m version 1 failed (error): EngineError: cpu:0 failed while predicting" in about[0]
    if kind == "json":
        entry = json.loads(about[0])
        assert {name: entry[name] for name in ("model", "version", "reason", "worker", "status", "request_id")} == {
            **{"model": "m", "version": "1", "reason": "error"},
            **{"worker": "cpu:0", "status": 500, "request_id": "failed"},
        }
        assert "raise ValueError" in entry["traceback"]
    else:
        at = lines.index(about[0])
        assert lines[at + 1] == "    | Traceback (most recent call last):"
        assert any("raise ValueError" in line for line in lines[at : at + 20])
    status, headers, _ = answers["named"]
    assert (status, headers["x-request-id"]) == (500, "failed")


def test_a_failure_of_a_nameless_request_gets_an_id_that_the_client_sees(logged):
    _, lines, answers = logged
    made = answers["nameless"][1]["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", made)
    assert any(f"request {made} for model m" in line for line in lines)


def test_many_failures_are_counted_not_logged(logged):
    assert len([line for line in logged[1] if "for model m version 1 failed (error)" in line]) == 5


def test_how_many_more_failed_is_told(monkeypatch, caplog):
    from ascend_parallel.errors import OverloadedError
    from ascend_parallel.serving import failure_log
    from ascend_parallel.serving.request import InferRequest

    class Loop:
        """Keeps what is to be called later."""

        def __init__(self):
            self.later = []

        def call_later(self, delay_s, callback):
            self.later.append((delay_s, callback))

    monkeypatch.setattr(failure_log.logger, "propagate", True)
    loop = Loop()
    log = failure_log.FailureLog("m", "1", loop)
    for _ in range(12):
        log.add(InferRequest((), (), lambda request: None), "rejected", OverloadedError("the queue is full"))
    [(delay_s, callback)] = loop.later
    assert delay_s == failure_log.WINDOW_S
    callback()
    assert "7 more requests for model m version 1 failed (rejected) within 10 s" in caplog.messages[-1]
    assert len(caplog.messages) == 6
    log.add(InferRequest((), (), lambda request: None), "rejected", OverloadedError("the queue is full"))
    assert len(caplog.messages) == 7 and len(loop.later) == 2
