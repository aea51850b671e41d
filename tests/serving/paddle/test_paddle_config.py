"""The settings that Paddle Serving's users need: what is right is read, what is wrong is told."""

import pytest

from ascend_parallel.pipelines.graph import Graph, collect_by_op
from ascend_parallel.serving.config_checks import check_config

OP = {"name": "a", "python": "ops.py:A", "interface": "paddle_serving"}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    (tmp_path / "ops.py").touch()
    (tmp_path / "m.onnx").touch()
    monkeypatch.chdir(tmp_path)


def problems_of(*pipelines):
    return [problem.message for problem in check_config({"pipelines": list(pipelines)})[1]]


def pipeline(name="p", *ops, **settings):
    return {"name": name, "ops": list(ops) or [OP], **settings}


def test_names_of_services_are_told_apart():
    assert problems_of(pipeline(paddle_service="one"), pipeline("q", paddle_service="two")) == []
    same = [pipeline(paddle_service="one"), pipeline(version="2", paddle_service="one")]
    assert problems_of(*same) == []  # two versions of one pipeline
    assert problems_of(pipeline(paddle_service="one"), pipeline("q", paddle_service="one")) == [
        "pipelines[1].paddle_service is 'one', as that of pipelines[0] is; choose another"
    ]


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_other_routes_are_not_hidden(name):
    (problem,) = problems_of(pipeline(paddle_service=name))
    assert problem == f"pipelines[0].paddle_service is '{name}', with which other routes begin; choose another"


@pytest.mark.parametrize("name", ["", "a/b", "a b", ".", 7])
def test_a_name_is_one_part_of_a_path(name):
    (problem,) = problems_of(pipeline(paddle_service=name))
    assert problem.startswith("pipelines[0].paddle_service is ")


MISUSED = [
    ({"rename": {"a": "b"}}, "pipelines[0].ops[0].rename is for ops with a model, and this one has no path"),
    ({"fetch_list": ["a"]}, "pipelines[0].ops[0].fetch_list is for ops with a model, and this one has no path"),
    (
        {"path": "m.onnx", "interface": "op", "fetch_list": ["a"]},
        "pipelines[0].ops[0].fetch_list is for ops whose interface is paddle_serving",
    ),
    (
        {"path": "m.onnx", "python": None, "interface": None, "rename": {"a": "b"}},
        "pipelines[0].ops[0].rename is for ops with python, and this one has none",
    ),
]


@pytest.mark.parametrize(("settings", "message"), MISUSED)
def test_no_setting_is_ignored(settings, message):
    op = {key: value for key, value in {**OP, **settings}.items() if value is not None}
    assert problems_of(pipeline("p", op)) == [message]


def test_an_op_of_paddle_serving_gets_ops_as_a_whole():
    first = {**OP, "name": "first"}
    assert problems_of(pipeline("p", first, {**OP, "inputs": {"@DAGExecutor": "first", "request": "request"}})) == []
    assert problems_of(pipeline("p", first, {**OP, "inputs": ["first.x"]})) == [
        "pipelines[0].ops[1].inputs[0] names first.x; an op of Paddle Serving gets all that an op gives: write first"
    ]
    (problem,) = problems_of(pipeline("p", first, {**OP, "interface": "op", "inputs": {"x": "first"}}))
    assert "names 'first' without an output" in problem


def test_what_it_gets_is_called_as_it_says():
    inputs = {"one": "request", "two": ["request", "one"], "three": {"@DAGExecutor": "one", "b": "two"}}
    graph = Graph(inputs, None, ["one", "two", "three"])
    values = {"request": {"r": 1}, "one": {"o": 1}, "two": {"t": 1}}
    assert collect_by_op(graph.wirings["one"], values) == {"@DAGExecutor": {"r": 1}}
    assert collect_by_op(graph.wirings["two"], values) == {"@DAGExecutor": {"r": 1}, "one": {"o": 1}}
    assert collect_by_op(graph.wirings["three"], values) == {"@DAGExecutor": {"o": 1}, "b": {"t": 1}}
