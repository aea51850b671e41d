"""What a server shows of a pipeline and its ops: figures, spans, the trace file, and the page."""

import json
import os
import signal

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from serving.browser import chromium
from serving.servers import encode_request
from serving.test_traces import PARENT_ID, TRACE_ID, _attribute, _child, collector  # noqa: F401 - a fixture

from .wire_ops import metric, model, python, serving_pipelines, wait_until

OPS = [
    model("twice", {"x": "request.x"}),
    python("thrice", "Moody", {"x": "request.x", "after": "twice.y"}),  # what it refuses, twice has computed
    python("sum", "Sums", {"x": "request.x", "y": "twice.y", "z": "thrice.y"}),
]
NAMES = ["p", "p/twice", "p/thrice", "p/sum"]


def infer(server, value, headers=(), **extra):
    head, body = encode_request({"x": np.full((2, 3), value, np.float32)}, **extra)
    headers = {"Inference-Header-Content-Length": str(head), **dict(headers)}
    return server.request("POST", "/v2/models/p/infer", body, headers)[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pipeline = {"name": "p", "ops": OPS}
    with serving_pipelines(tmp_path_factory.mktemp("seen"), pipeline) as server:
        for value in range(1, 11):
            assert infer(server, value) == 200
        assert infer(server, -1) == 500 and infer(server, -5) == 422
        yield server


def test_the_metrics_have_the_ops(server):
    def read(name, model, **labels):
        return metric(server, f"ascend_parallel_inference_{name}", model=model, version="1", **labels)

    assert [read("request_success_total", name) for name in NAMES] == [10, 12, 10, 10]
    assert [read("request_failure_total", name, reason="error") for name in NAMES] == [1, 0, 1, 0]
    assert [read("request_failure_total", name, reason="invalid") for name in NAMES] == [1, 0, 1, 0]
    assert [read("ready", name) for name in NAMES] == [1] * 4
    assert read("count_total", "p") == 10 and read("count_total", "p/twice") == 24  # requests, and rows
    assert read("exec_count_total", "p/sum") == 10 and read("exec_count_total", "p") == 0
    for name in NAMES[1:]:
        assert metric(server, "ascend_parallel_worker_ready", model=name, worker="cpu:0") == 1
        assert metric(server, "ascend_parallel_shared_memory_bytes", model=name) > 0


def test_the_statistics_have_the_ops(server):
    stats = json.loads(server.request("GET", "/v2/models/p/stats")[2])["model_stats"]
    assert [entry["name"] for entry in stats] == NAMES
    assert [entry["inference_stats"]["success"]["count"] for entry in stats] == [10, 12, 10, 10]
    assert [entry["inference_stats"]["fail"]["count"] for entry in stats] == [2, 0, 2, 0]
    durations = [entry["inference_stats"]["success"]["ns"] for entry in stats]
    assert durations[0] > max(durations[2:])


def test_the_repository_has_the_pipeline_alone(server):
    index = json.loads(server.request("POST", "/v2/repository/index")[2])
    assert [(entry["name"], entry["state"]) for entry in index] == [("p", "READY")]
    about = json.loads(server.request("GET", "/v2/models/p")[2])
    assert about["platform"] == "ascend_parallel_pipeline" and about["inputs"] == about["outputs"] == []
    assert any("pipeline p version 1 is ready on cpu:0" in line for line in server.lines)


def test_the_page_shows_the_ops(server, tmp_path):
    status = json.loads(server.request("GET", "/status")[2])
    assert [(entry["kind"], entry["name"]) for entry in status["models"]] == [
        ("pipeline", "p"),
        *(("op", name) for name in NAMES[1:]),
    ]
    with chromium(tmp_path) as page:
        page.get(server.url)

        def text(selector):
            return page.find_element(By.CSS_SELECTOR, selector).text

        wait_until(lambda: len(page.find_elements(By.CSS_SELECTOR, "article")) == 4, "the page shows no ops")
        wait_until(lambda: page.find_element(By.ID, "model").get_attribute("value"), "there is no form")
        cards = [" ".join(card.text.split()) for card in page.find_elements(By.CSS_SELECTOR, "article")]
        assert cards[0].startswith("p pipeline, version 1 ready requests/s") and "device" not in cards[0]
        assert cards[2].startswith("p/thrice op, version 1 ready") and "cpu:0 ready" in cards[2]
        options = [option.text for option in page.find_elements(By.CSS_SELECTOR, "#model option")]
        assert options == ["p, version 1"]
        page.execute_script("arguments[0].scrollIntoView()", page.find_element(By.ID, "inputs"))
        for value, shown in [(2.0, "sum FP32 [1, 1]\n12\n\nrows INT64 [1]\n1"), (-5.0, "")]:
            field = page.find_element(By.ID, "inputs")
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
            page.execute_script("arguments[0].value = arguments[1]", field, json.dumps([tensor]))
            page.find_element(By.CSS_SELECTOR, "#infer-form button").click()
            wanted = "answered" if value > 0 else "error 422, code 77"
            wait_until(lambda wanted=wanted: text("#took").startswith(wanted), "no answer")
            assert text("#outputs") == shown
        assert text("#infer-error") == "the picture is too dark"


def test_spans_of_one_request_hang_together(collector, tmp_path):  # noqa: F811 - the fixture
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    with serving_pipelines(tmp_path, {"name": "p", "ops": OPS}, env=env) as server:
        traceparent = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
        assert infer(server, 1, traceparent, id="good") == 200
        assert infer(server, -1, id="bad") == 500
        assert infer(server, 1, {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"}, id="not sampled") == 200
        assert server.end() == 0
    groups = [group for request in collector.received for group in request.resource_spans]
    spans = [span for group in groups for scope in group.scope_spans for span in scope.spans]
    roots = {_attribute(span, "request.id"): span for span in spans if span.name == "infer p"}
    assert roots.keys() == {"good", "bad"}
    good = roots["good"]
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert roots["bad"].parent_span_id == b"" and "a row of -1" in roots["bad"].status.message
    for name in NAMES[1:]:
        op = _child(spans, good, f"infer {name}")
        assert op.trace_id == good.trace_id and _attribute(op, "request.id") == "good"
        assert good.start_time_unix_nano <= op.start_time_unix_nano
        assert op.end_time_unix_nano <= good.end_time_unix_nano
        assert _child(spans, op, "compute").trace_id == good.trace_id
    failed = _child(spans, roots["bad"], "infer p/thrice")
    assert failed.status.code == 2 and "a row of -1" in failed.status.message


def test_the_trace_file_has_the_ops(tmp_path):
    path = tmp_path / "trace.json"
    with serving_pipelines(tmp_path, {"name": "p", "ops": OPS}, trace=str(path)) as server:
        assert infer(server, 1, id="first") == 200
        assert infer(server, 2) == 200
        assert server.end() == 0
    events = json.loads(path.read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {f"{name} version 1: requests" for name in NAMES} <= names
    requests = [event for event in events if event.get("cat") == "request"]
    by_id = {}
    for event in requests:
        by_id.setdefault(event["args"]["id"], []).append(event)
    assert sorted(map(len, by_id.values())) == [4, 4] and "first" in by_id and "" not in by_id


def test_readiness_names_the_op_that_has_no_worker(server):

    (pid, *_) = server.workers()
    os.kill(pid, signal.SIGKILL)
    seen = []

    def ask():
        status, _, body = server.request("GET", "/v2/models/p/ready")
        seen.append((status, body))
        return status

    wait_until(lambda: ask() == 503, "it stays ready")
    error = json.loads(seen[-1][1])["error"]
    assert error.startswith("model 'p' version 1 has the op '") and "has no worker at the moment" in error
    wait_until(lambda: ask() == 200, "it stays unready")
    assert infer(server, 1) == 200
