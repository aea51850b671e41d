"""Ops of Paddle Serving run unchanged, and migrate learns of their graph."""

import json
import subprocess
import sys
from pathlib import Path

import models
import numpy as np
import pytest
from calling import call

import ascend_parallel
from ascend_parallel.worker.engines import find_engine

FILE = Path(__file__).with_name("paddle_ocr_service.py")
PROGRAM = Path(ascend_parallel.__file__).parent / "worker" / "__main__.py"
REQUEST = "@DAGExecutor"


@pytest.fixture(autouse=True)
def clean_modules():
    """Take the stand-ins out again, and what was imported with them."""
    before, path, argv = set(sys.modules), sys.path[:], sys.argv
    yield
    assert sys.argv is argv
    for name in set(sys.modules) - before:
        if "paddle_" in name:
            del sys.modules[name]
    sys.path[:] = path


def build(where, name="det", model="Model", **options):
    options = {"name": name, "interface": "paddle_serving", "python": where and f"{FILE}:{where}", **options}
    path = ""
    if model:
        options["engine"], path = "callable", f"{FILE.with_name('ops_of_tests.py')}:{model}"
    return find_engine("op")(path, ("cpu", 0), options)


def ask(engine, *inputs, start=0):
    return call(engine, [{"inputs": each, "data_id": start + i, "log_id": 100 + i} for i, each in enumerate(inputs)])


def request(**values):
    return {REQUEST: values}


# ---- ops


def test_an_op_gets_what_it_got_and_answers_what_it_answered():
    one, other = ask(build("DetOp"), request(x="1,2,3"), request(x="4,5,6,7,8,9"))
    assert [row.tolist() for row in one["outputs"]["rows"]] == [[2, 4, 6]]
    assert [row.tolist() for row in other["outputs"]["rows"]] == [[8, 10, 12], [14, 16, 18]]
    assert (one["outputs"]["width"], other["outputs"]["width"]) == (3, 6), "self belongs to the request"
    assert (one["outputs"]["ids"], other["outputs"]["ids"]) == ([0, 100], [1, 101])


def test_is_skip_process_holds_for_its_request_among_others():
    *others, skipped = ask(build("DetOp"), request(x="1,2,3"), request(x="4,5,6"), request(x="0,0"))
    assert all(len(each["outputs"]["rows"]) == 1 for each in others)
    assert skipped["outputs"] == {"rows": [], "width": 2}


def test_a_list_is_mini_batches():
    rows = [np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32)]
    (answer,) = ask(build("RecOp", name="rec"), {"det": {"rows": rows}})
    assert answer["outputs"] == {"sums": "[12, 30]"}


def test_a_process_of_its_own_is_called_for_each_feed():
    one, seven, many = ask(
        build("OwnProcessOp"),
        request(x=np.ones((1, 3))),
        request(x=np.full((1, 3), 7)),
        request(x=[np.ones((1, 3)), np.full((2, 3), 2)]),
    )
    assert one["outputs"]["fetched"]["y"].tolist() == [[4, 4, 4]]
    assert seven["error"][:3] == ["product", 9000, "seven"]
    assert [each["y"][0, 0] for each in many["outputs"]["fetched"]] == [4, 8]


def test_the_arrays_are_the_op_s_own():
    given = np.ones((1, 3), np.float32)
    engine = build(None, model=None)
    engine._runner._op._op.preprocess = in_place
    (answer,) = ask(engine, request(x=given))
    assert answer["outputs"]["x"].tolist() == [[6, 6, 6]] and given[0, 0] == 1


def in_place(input_dicts, data_id, log_id):
    input_dicts[REQUEST]["x"] += 5
    return input_dicts[REQUEST], False, None, ""


def test_without_a_model_process_is_skipped():
    (answer,) = ask(build("OcrService", name="join", model=None), {"a": {"n": "1"}, "b": {"n": "2"}})
    assert answer["outputs"] == {"n": "9", "of": "a,b"}


def test_the_base_class_runs_the_model_on_its_only_input():
    good, bad = ask(build(None), request(x=np.ones((1, 3))), {"a": {}, "b": {}})
    assert good["outputs"]["y"].tolist() == [[2, 2, 2]]
    assert "it reads several ops (a, b), so it needs a preprocess of its own" in bad["error"][2]


def test_what_the_base_class_passes_on_is_the_fault_of_who_gave_it():
    (answer,) = ask(build("Op", name="plain"), {"det": {"x": np.ones((1, 4), np.float32)}})
    assert answer["error"][0] == "input" and "what it got does not fit the model: input 'x'" in answer["error"][2]


def test_fetch_list_chooses_outputs():
    def inputs():
        return request(x=np.ones((1, 3)))

    assert list(ask(build(None, fetch_list=["y"]), inputs())[0]["outputs"]) == ["y"]
    (answer,) = ask(build(None, fetch_list=["price"]), inputs())
    assert "fetch_list names 'price', which is no output of the model; it has: y" in answer["error"][2]


FAILURES = [
    (
        request(say="three"),
        "output",
        None,
        "preprocess returned a tuple of 3; expected a tuple (feeds, is_skip_process",
    ),
    (request(say="text"), "output", None, "preprocess returned a str; expected feeds that are a dict of"),
    (request(say="refuse"), "product", 51, "no numbers"),
    (request(say="custom"), "product", 5000, "not like this"),
    (request(say="raise"), "engine", None, "op 'det': preprocess raised ValueError: odd"),
    (request(), "engine", None, "op 'det': preprocess raised KeyError: 'x'"),
    (request(x="100,0,0"), "product", 99, "too large"),
    (request(x="13,0,0"), "engine", None, "op 'det': the model raised ArithmeticError: 13 in a row"),
]


@pytest.mark.parametrize(("inputs", "kind", "code", "text"), FAILURES, ids=lambda value: str(value)[-24:])
def test_what_is_wrong_fails_its_own_request_only(inputs, kind, code, text):
    first, bad, last = ask(build("DetOp"), request(x="1,2,3"), inputs, request(x="4,5,6"))
    assert bad["error"][:2] == [kind, code] and text in bad["error"][2]
    assert len(first["outputs"]["rows"]) == len(last["outputs"]["rows"]) == 1


BUILDS = [
    ("Missing", "paddle_ocr_service.py has no Missing"),
    ("np.ndarray", "is no subclass of paddle_serving_server's Op, and no WebService"),
    ("OcrService", "builds no op named 'other'; it has: det, rec, plain, join"),
]


@pytest.mark.parametrize(("where", "message"), BUILDS)
def test_an_op_that_cannot_be_built_says_why(where, message):
    with pytest.raises(RuntimeError) as caught:
        build(where, name="other")
    assert str(caught.value).startswith("op 'other': ") and message in str(caught.value)


# ---- the graph


def graph_of(path, python=sys.executable):
    done = subprocess.run([python, PROGRAM, "paddle-graph", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("old", [False, True])
def test_the_graph_of_a_file(old):
    graph = graph_of(FILE, models.mslite_python() if old else sys.executable)
    assert (graph["service"], graph["config"]) == ("ocr", "config.yml")
    det, rec, plain, join = graph["ops"]
    assert det == {
        "name": "det",
        "class": "DetOp",
        "python": f"{FILE}:DetOp",
        "inputs": [REQUEST],
        "methods": ["init_op", "preprocess", "postprocess"],
        "arguments": {"batch_size": 4},
    }
    assert (rec["inputs"], rec["python"]) == (["det"], f"{FILE}:RecOp")
    assert (plain["inputs"], plain["python"], plain["methods"]) == (["det"], None, [])
    assert (join["inputs"], join["python"], join["arguments"]) == (
        ["rec", "plain"],
        f"{FILE}:OcrService",
        {"concurrency": 2},
    )


SERVER = """
from paddle_serving_server.pipeline import Op, RequestOp, ResponseOp, PipelineServer
read_op = RequestOp()
one = Op(name="one", input_ops=[read_op])
two = Op("two", [one, read_op])
server = PipelineServer()
server.set_response_op(ResponseOp(input_ops=[two]))
server.prepare_server("other.yml")
server.run_server()
"""
GUARDED = """
import sys
from paddle_serving_server_gpu.web_service import WebService, Op
assert sys.argv[1:] == []
class Service(WebService):
    def get_pipeline_response(self, read_op):
        return Op(name="only", input_ops=[read_op])
if __name__ == "__main__":
    Service("never").run_service()
"""


@pytest.mark.parametrize(
    ("text", "config", "ops"),
    [
        (SERVER, "other.yml", [("one", [REQUEST]), ("two", ["one", REQUEST])]),
        (GUARDED, None, [("only", [REQUEST])]),
    ],
)
def test_other_ways_to_build_a_graph(tmp_path, text, config, ops):
    (tmp_path / "service.py").write_text(text)
    graph = graph_of(tmp_path / "service.py")
    assert graph["config"] == config
    assert [(each["name"], each["inputs"]) for each in graph["ops"]] == ops


WRONG = [
    ("x = 1", "makes no WebService, and no PipelineServer with a response op"),
    ("import nothing_here", "cannot be imported: ModuleNotFoundError: No module named 'nothing_here'"),
    ("raise SystemExit('usage')", "cannot be imported: SystemExit: usage"),
    (
        "from paddle_serving_server.pipeline import LocalServiceHandler",
        "ascend_parallel stands in for Paddle Serving here, and its paddle_serving_server.pipeline has no "
        "LocalServiceHandler (it has: Op, RequestOp",
    ),
    (GUARDED.replace("return Op", "Op"), "get_pipeline_response of Service in"),
    (GUARDED.replace("return Op(", "a = Op('only'); return Op(").replace("[read_op]", "[a]"), "two ops named 'only'"),
    (
        SERVER.replace("server =", "one.set_input_ops([two])\nserver ="),
        "form a circle: two -> one -> two",
    ),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message[-24:] for _, message in WRONG])
def test_a_file_without_a_graph_says_why(tmp_path, text, message):
    (tmp_path / "service.py").write_text(text)
    assert message in graph_of(tmp_path / "service.py")["error"]
