"""Paddle Serving's clients over HTTP: answers are those of the real server, errors have its numbers."""

import gzip
import http.client
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from faults import procs

from ..servers import serving
from .recording import FILE, ask, one, tensor

NUMBER = re.compile(r"-?\d+\.\d+")
RECORDED = json.loads(FILE.read_text())


def ask_service(services, service, body):
    return ask(f"{services.server.url}/{service}/prediction", body)["answer"]


def say(services, service, **inputs):
    return ask_service(services, service, {"key": list(inputs), "value": list(inputs.values())})


def alike(one, other):
    """Whether two texts are the same but for the last digits of numbers, which differ between processors."""
    numbers = zip(NUMBER.findall(one), NUMBER.findall(other), strict=False)
    same = all(math.isclose(float(a), float(b), rel_tol=1e-5, abs_tol=1e-5) for a, b in numbers)
    return same and NUMBER.sub("#", one) == NUMBER.sub("#", other)


# ---- as the real server


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda r: f"{r['path']} {json.dumps(r['body'])[:40]}")
def test_it_answers_as_the_real_server_did(recorded, services):
    found = ask(services.server.url + recorded["path"], recorded["body"])
    assert found["status"] == recorded["status"], found
    answer, theirs = found["answer"], recorded["answer"]
    if found["status"] != 200:
        assert "error" in answer
        return
    assert list(answer) == ["err_no", "err_msg", "key", "value", "tensors"]
    assert answer["err_no"] == theirs["err_no"] and answer["key"] == theirs["key"] and answer["tensors"] == []
    assert all(alike(one, other) for one, other in zip(answer["value"], theirs["value"], strict=True)), answer
    if theirs["err_no"] in (0, 51):
        assert answer["err_msg"] == theirs["err_msg"]
    else:
        assert answer["err_msg"]


def test_there_are_enough_recorded_answers():
    assert len(RECORDED) > 30
    assert {0, 51, 3002, 8000, 10000} <= {r["answer"]["err_no"] for r in RECORDED if r["status"] == 200}


# ---- what ops get and give


def test_an_op_gets_the_logid_and_the_request_under_their_name(services):
    answer = ask_service(services, "tell", one("x", "text", logid=4711, clientip="1.2.3.4"))
    assert dict(zip(answer["key"], answer["value"], strict=True)) == {
        "ops": "['@DAGExecutor']",
        "log_id": "4711",
        "x": "'text'",
    }
    assert ask_service(services, "tell", one("x", ""))["value"] == ["['@DAGExecutor']", "0", "''"]
    answer = ask_service(services, "tell", one("x", "", logid=-(2**63)))
    assert str(-(2**63)) in answer["value"]


def test_arrays_are_told_as_numpy_shows_them_all_of_them(services):
    answer = say(services, "odd", say="arrays")
    with np.printoptions(threshold=sys.maxsize):
        expected = [repr(np.arange(3000, dtype=np.float32).reshape(3, 1000)), repr(np.array([True]))]
    assert answer["key"] == ["a", "b"] and answer["value"] == expected
    assert "..." not in expected[0] and expected[0].endswith("dtype=float32)")


def test_text_is_passed_on(services):
    answer = say(services, "odd", say="text")
    assert (answer["err_no"], answer["key"], answer["value"]) == (0, ["one", "two"], ["1", "zwei \u2713"])
    assert say(services, "odd", say="nothing")["key"] == []


def test_a_model_alone_takes_tensors(services):
    row = np.linspace(0, 1, 13, dtype=np.float32).tolist()
    answer = ask_service(services, "model", tensor(elem_type=1, shape=[1, 13], float_data=row))
    assert answer["err_no"] == 0 and re.fullmatch(r"array\(\[\[[-\d.]+\]\], dtype=float32\)", answer["value"][0])


ERRORS = [  # service, body -> err_no, err_msg
    ("odd", one("say", "refuse"), 77, "not today"),
    ("odd", one("say", "raise"), 10000, "op 'odd': predict raised ValueError: odd"),
    ("odd", one("say", "slow"), 6000, "1 s"),
    (
        "odd",
        one("say", "int"),
        7000,
        "the output 'n' of the pipeline is of type int; Paddle Serving's clients get",
    ),
    ("odd", one("say", "mixed"), 7000, "the output 'array' of the pipeline is of type ndarray"),
    ("odd", one("say", "list"), 7000, "op 'odd': predict returned a list of 1; expected a dict"),
    ("mlp", one("x", "1,2,3"), 5000, "op 'mlp': what preprocess returned does not fit the model: input 'x' has shape"),
    ("model", one("x", "1,2"), 5000, "op 'm': input 'x' holds <U3 elements; expected numbers"),
    ("model", tensor(elem_type=1, shape=[1, 2], float_data=[1, 2]), 5000, "op 'm': input 'x' has shape (1, 2)"),
    ("model", {"tensors": [{"name": "y", "elem_type": 1, "shape": [1], "float_data": [1]}]}, 5000, "op 'm': "),
    ("uci", tensor(elem_type=13, byte_data="AAAA"), 8000, "byte_data of tensor 'x' is no .npy file of numbers"),
    ("uci", tensor(elem_type=10), 8000, "tensor 'x' has the elem_type 10; expected 0 to 9, 12 or 13"),
    ("uci", tensor(elem_type=1, float_data=[1], shape=[1], lod=[1, 2, 3]), 8000, "cannot reshape array of size 3"),
    ("plain", one("say", "text"), 3002, "there is no service 'plain'; the services are: odd, gated, model, tell, "),
]


@pytest.mark.parametrize(("service", "body", "code", "text"), ERRORS, ids=lambda value: str(value)[:30])
def test_errors_have_paddle_serving_s_numbers(service, body, code, text, services):
    answer = ask_service(services, service, body)
    assert (answer["err_no"], answer["key"], answer["value"]) == (code, [], [])
    assert text in answer["err_msg"]


def test_a_full_pipeline_refuses_and_a_client_that_leaves_makes_room(services):
    connection = http.client.HTTPConnection("127.0.0.1", services.server.port, timeout=30)
    connection.request("POST", "/gated/prediction", json.dumps(one("x", "")))
    os.read(services.begun, 1)
    answer = say(services, "gated", x="")
    assert answer["err_no"] == 3001 and "the pipeline is full: it has 1 requests" in answer["err_msg"]
    failures = count_failures(services, "gated")
    connection.close()
    procs.wait_until(lambda: count_failures(services, "gated") > failures, "the request given up")
    os.write(services.gate, b"xx")
    assert say(services, "gated", x="")["value"] == ["yes"]


def count_failures(services, model):
    _status, _headers, body = services.server.request("GET", f"/v2/models/{model}/stats")
    return json.loads(body)["model_stats"][0]["inference_stats"]["fail"]["count"]


# ---- the route


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/uci/prediction", 404),
        ("POST", "/v2/nothing", 404),
        ("POST", "/v1/prediction", 404),
        ("POST", "/uci", 404),
        ("GET", "/v2/health", 404),
        ("GET", "/v2/health/ready", 200),
        ("GET", "/status", 200),
    ],
)
def test_other_routes_are_what_they_were(method, path, status, services):
    found, _headers, body = services.server.request(method, path, b"{}" if method == "POST" else None)
    assert found == status, body


def test_a_body_may_be_compressed_and_must_not_be_too_large(services):
    body = gzip.compress(json.dumps(one("say", "text")).encode())
    path = "/odd/prediction"
    status, _headers, answer = services.server.request("POST", path, body, {"Content-Encoding": "gzip"})
    assert status == 200 and json.loads(answer)["err_no"] == 0
    status, _headers, answer = services.server.request("POST", path, body, {"Content-Encoding": "br"})
    assert status == 400 and b"content-encoding is" in answer
    large = json.dumps(one("say", "x" * 200_000)).encode()
    status, _headers, answer = services.server.request("POST", path, large)
    assert status == 413 and b"max_body_bytes" in answer
    status, _headers, answer = services.server.request("POST", path, json.dumps(one("say", "x" * 150_000)).encode())
    assert status == 200 and json.loads(answer)["err_no"] == 10000


def test_a_token_is_asked_for(tmp_path):
    path = tmp_path / "serve.yml"
    shutil.copy(Path(__file__).with_name("odd_ops.py"), tmp_path)
    secret = tmp_path / "token"
    secret.write_text("open-sesame-0123456789\n")
    secret.chmod(0o600)
    path.write_text('pipelines: [{name: o, paddle_service: o, ops: [{name: o, python: "odd_ops.py:Odd"}]}]')
    with serving(path, "--token-file", secret) as server:
        body = json.dumps(one("say", "text")).encode()
        assert server.request("POST", "/o/prediction", body)[0] == 401
        bearer = {"Authorization": "Bearer open-sesame-0123456789"}
        assert server.request("POST", "/o/prediction", body, bearer)[0] == 200


def test_no_request_failed_in_the_server_itself(services):
    """The tracebacks of ops are behind a bar."""
    assert not [line for line in services.server.lines if line.startswith("Traceback")], services.server.lines
