"""The OpenAPI description: it is valid, it names all routes, and the real server keeps to it whatever comes."""

import copy
import json
from pathlib import Path

import hypothesis
import models
import pytest
import schemathesis
import schemathesis.openapi
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.routing import Route

from ascend_parallel.serving.http.app import Routes
from ascend_parallel.serving.http.openapi import describe_routes
from ascend_parallel.serving.repository import Repository
from ascend_parallel.serving.service import Service

from .servers import serving

TINY = Path(__file__).parents[2] / "examples" / "sd21" / "tiny"
#: Files of the page, which the page names.
FILES = {"/page.css", "/page.js", "/common.js", "/images.css", "/images.js"}
METHODS = {"get", "post", "put", "delete", "patch"}


def description_for_tests():
    """Return the description with the names of the models that are there, so that requests come further than a 404."""
    description = copy.deepcopy(describe_routes(has_token=False))
    parameters = description["components"]["parameters"]
    parameters["model"]["schema"] = {"enum": ["m", "tiny", "absent"]}
    fields = description["components"]["schemas"]["GenerationRequest"]["properties"]
    fields["model"] = {"enum": ["tiny", "absent", None]}
    parameters["version"]["schema"] = {"enum": ["1", "9"]}
    return description


schema = schemathesis.openapi.from_dict(description_for_tests())


#: A model, and one that draws pictures in no time.
CONFIG = """
models: [{{name: m, path: {model}, devices: "cpu:0", engine_options: {{threads: 1}}}}]
images: [{{name: tiny, folder: {tiny}, devices: "cpu:0", engine_options: {{threads: 1}}, steps: 1, max_steps: 2,
    max_pictures: 2}}]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    config = tmp_path_factory.mktemp("openapi") / "config.yml"
    config.write_text(CONFIG.format(model=models.mlp(), tiny=TINY))
    with serving(config) as server:
        yield server


@schema.parametrize()
@hypothesis.settings(max_examples=20, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_the_server_keeps_to_its_description(case, server):
    """Nothing that fits the description, and nothing that does not, gets an answer that is not in it; none fails."""
    # Whether tensors fit, and what pictures can be asked for, the model says; and 1.0 is an integer for JSON schemas,
    # but no size for the server.
    excluded = [positive_data_acceptance] if case.path.endswith(("infer", "register", "generations")) else []
    case.call_and_validate(base_url=server.url, timeout=30, excluded_checks=excluded)


def test_the_server_is_well_after_all_that(server):
    status, _headers, body = server.request("GET", "/v2/models/m/stats")
    assert status == 200 and json.loads(body)["model_stats"][0]["inference_count"] >= 0
    assert not [line for line in server.lines if "Traceback" in line], "\n".join(server.lines)


def test_each_route_is_described():
    routes = Routes(Service(Repository([], lambda name: [], 0))).table()
    there = {(route.path, method.lower()) for route in routes for method in _methods(route)} - {("/", "head")}
    described = {
        (path, method)
        for path, item in describe_routes(has_token=False)["paths"].items()
        for method in METHODS & {*item}
    }
    assert described == {(path, method) for path, method in there if path not in FILES and method != "head"}


def _methods(route):
    assert isinstance(route, Route) and route.methods is not None
    return route.methods


def test_it_is_valid():
    schema.validate()
    operations = [item for path in describe_routes(has_token=False)["paths"].values() for item in path.values()]
    ids = [item["operationId"] for item in operations if isinstance(item, dict)]
    assert len(set(ids)) == len(ids) > 15


def test_it_is_served_without_a_token_and_tells_that_one_is_needed(tmp_path):
    secret = tmp_path / "token"
    secret.write_text("open-sesame-0123456789\n")
    secret.chmod(0o600)
    with serving(models.mlp(), "--name", "m", "--devices", "cpu:0", "--token-file", secret) as server:
        status, headers, body = server.request("GET", "/openapi.json")
        assert (status, headers["content-type"]) == (200, "application/json")
        description = json.loads(body)
        assert description["security"] == [{"token": []}]
        for path, item in description["paths"].items():
            for method in METHODS & {*item}:
                is_open = item[method].get("security") == []
                status, _headers, body = server.request(method.upper(), path)
                assert (status != 401) == is_open, f"{method} {path}: {status} {body!r}"
                assert is_open or "401" in item[method]["responses"]
