"""RequestOp and ResponseOp of users of Paddle Serving, and models whose inputs have other names."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from calling import call
from test_paddle_ops import PROGRAM, REQUEST, clean_modules  # noqa: F401 - a fixture that is used by itself

from ascend_parallel.worker.engines import find_engine

FILE = Path(__file__).with_name("paddle_ends_service.py")
OPS = FILE.with_name("ops_of_tests.py")


def build(where, model=False, **options):
    options = {"name": "end", "interface": "paddle_serving", "python": f"{FILE}:{where}", **options}
    return find_engine("op")(f"{OPS}:Model" if model else "", ("cpu", 0), options)


def ask(engine, *inputs):
    return call(engine, [{"inputs": each, "data_id": 7 + i, "log_id": 100 + i} for i, each in enumerate(inputs)])


# ---- the request


def test_a_request_is_unpacked_by_the_user_s_own_op():
    one, other = ask(build("Unpack"), {REQUEST: {"a": "1", "b": "2"}}, {REQUEST: {"x": np.arange(3)}})
    assert one["outputs"] == {"inputs": {"a": "1", "b": "2"}, "logid": 100, "seen": 1}
    assert other["outputs"]["inputs"]["x"].tolist() == [0, 1, 2] and other["outputs"]["logid"] == 101


def test_the_base_class_unpacks_text_and_arrays():
    (answer,) = ask(build("Unpack"), {REQUEST: {"say": "base", "x": np.arange(2)}})
    assert answer["outputs"]["say"] == "base" and answer["outputs"]["x"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("say", "kind", "code", "text"),
    [
        ("refuse", "product", 61, "no"),
        (
            "three",
            "output",
            None,
            "unpack_request_package returned a tuple of 3; expected a tuple (dict, log_id",
        ),
        ("text", "output", None, "unpack_request_package returned a str; expected a dict"),
    ],
)
def test_a_wrong_request_fails_alone(say, kind, code, text):
    bad, good = ask(build("Unpack"), {REQUEST: {"say": say}}, {REQUEST: {"a": "1"}})
    assert bad["error"][:2] == [kind, code] and text in bad["error"][2]
    assert good["outputs"]["inputs"] == {"a": "1"}


# ---- the response


def test_a_response_is_packed_by_the_user_s_own_op():
    array, text = ask(build("Pack"), {"last": {"y": np.ones(2)}}, {"last": {"y": "1", "z": "2"}})
    assert array["outputs"] == {"what": "CHANNEL_NPDATA ['y'] 100"}
    assert text["outputs"] == {"what": "DICT ['y', 'z'] 101"}


def test_the_base_class_packs_arrays_and_text():
    array, text, number = ask(
        build("PlainPack"), {"last": {"y": np.zeros(1001)}}, {"last": {"y": "1"}}, {"last": {"y": 1}}
    )
    assert "..." not in array["outputs"]["y"] and array["outputs"]["y"].startswith("array([0., 0.")
    assert text["outputs"] == {"y": "1"}
    assert number["error"][:2] == ["product", 7000] and "'y' is of type int" in number["error"][2]


@pytest.mark.parametrize(
    ("outputs", "kind", "code", "text"),
    [
        (
            {"none": "1"},
            "output",
            None,
            "pack_response_package returned None; expected a pipeline_service_pb2.Resp",
        ),
        ({"short": "1"}, "output", None, "pack_response_package returned a Response; expected"),
        ({"code": "1"}, "product", 99, "packed"),
    ],
)
def test_a_wrong_response_fails_alone(outputs, kind, code, text):
    bad, good = ask(build("Pack"), {"last": outputs}, {"last": {"y": "1"}})
    assert bad["error"][:2] == [kind, code] and text in bad["error"][2]
    assert good["outputs"] == {"what": "DICT ['y'] 101"}


def test_a_response_op_reads_one_op():
    (answer,) = ask(build("Pack"), {"one": {}, "two": {}})
    assert "it reads several ops (one, two); a ResponseOp reads one" in answer["error"][2]


def test_neither_has_a_model():
    with pytest.raises(RuntimeError, match="Unpack is a RequestOp, which has no model"):
        build("Unpack", model=True, engine="callable")


def test_the_graph_tells_both():
    done = subprocess.run([sys.executable, PROGRAM, "paddle-graph", FILE], capture_output=True, text=True, timeout=60)
    graph = json.loads(done.stdout)
    assert (graph["request"], graph["response"]) == (f"{FILE}:Unpack", f"{FILE}:Pack")
    assert [(op["name"], op["inputs"]) for op in graph["ops"]] == [("rows", [REQUEST])]


# ---- names


def test_the_model_may_have_other_names():
    engine = build("Rows", model=True, engine="callable", rename={"price": "y"}, fetch_list=["price"])
    (answer,) = ask(engine, {REQUEST: {}})
    assert {name: value.tolist() for name, value in answer["outputs"].items()} == {"price": [[2, 2, 2]]}
    engine = find_engine("op")(
        f"{OPS}:Model", ("cpu", 0), {"name": "m", "engine": "callable", "rename": {"image": "x", "sums": "y"}}
    )
    (answer,) = call(engine, [{"inputs": {"image": np.ones((1, 3), np.float32)}}])
    assert answer["outputs"]["sums"].tolist() == [[2, 2, 2]]
    (answer,) = call(engine, [{"inputs": {"x": np.ones((1, 3), np.float32)}}])
    assert answer["error"][0] == "input" and "it got no 'image', which the model needs" in answer["error"][2]


def test_a_name_that_the_model_does_not_have_is_told():
    with pytest.raises(RuntimeError, match="rename says that a is the model's z, which it does not have; it has: x, y"):
        build("Rows", model=True, engine="callable", rename={"a": "z"})
