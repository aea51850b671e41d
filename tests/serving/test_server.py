"""The server as a whole: the real command, over the wire."""

import numpy as np
import pytest

from .servers import serving
from .serving_models import write_factories


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    return write_factories(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module", params=["processes", "threads"])
def server(factories, request):
    with serving(f"{factories}:twice", "--devices", "cpu:0,1", "--name", "m", "--workers", request.param) as server:
        yield server


def test_an_answer_is_the_models(server):
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(server.infer("m", x=x)["y"], 2 * x)


def test_a_request_above_the_maximum_is_split(server):
    x = np.arange(300, dtype=np.float32).reshape(100, 3)
    np.testing.assert_array_equal(server.infer("m", x=x)["y"], 2 * x)


def test_metrics_count_what_was_answered(server):
    from prometheus_client.parser import text_string_to_metric_families

    x = np.ones((3, 2), np.float32)
    before = read_metrics(server, text_string_to_metric_families)
    server.infer("m", x=x)
    after = read_metrics(server, text_string_to_metric_families)
    prefix = "ascend_parallel_inference_"
    assert after[f"{prefix}request_success_total"] == before[f"{prefix}request_success_total"] + 1
    assert after[f"{prefix}count_total"] == before[f"{prefix}count_total"] + 3
    assert after[f"{prefix}exec_count_total"] == before[f"{prefix}exec_count_total"] + 1
    assert after[f"{prefix}request_seconds_count"] == after[f"{prefix}request_success_total"]
    assert after[f"{prefix}ready"] == 1


def read_metrics(server, parse):
    status, _headers, body = server.request("GET", "/metrics")
    assert status == 200, body
    return {sample.name: sample.value for family in parse(body.decode()) for sample in family.samples}
