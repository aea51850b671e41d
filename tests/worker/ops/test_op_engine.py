"""An op's requests: Python alone, a model, Python around a model; what is wrong fails its own request only."""

import numpy as np
import pytest
from calling import ask, call, op, runs, x

from ascend_parallel import ProductError, Skip
from ascend_parallel.worker.engines import ENGINES, PUBLIC_ENGINES, EngineBroken
from ascend_parallel.worker.ops.packing import Packed, unpack


def test_the_engine_is_known_but_not_offered():
    assert "op" in ENGINES and "op" not in PUBLIC_ENGINES
    assert not ENGINES["op"].can_share and not ENGINES["op"].may_run_in_threads


# ---- what an op can be


def test_python_alone():
    one, other = ask(op("Alone", options={"factor": 3}), x(1), x(2))
    np.testing.assert_array_equal(one["outputs"]["y"], x(3)["x"])
    np.testing.assert_array_equal(other["outputs"]["y"], x(6)["x"])


def test_a_callable_alone():
    assert ask(op("make_callable"), {"b": 1, "a": None}) == [{"outputs": {"keys": ["a", "b"]}}]


def test_a_model_alone_takes_its_inputs_by_name():
    (answer,) = ask(op(model="Model"), x(1, other="text"))
    assert list(answer["outputs"]) == ["y"]
    np.testing.assert_array_equal(answer["outputs"]["y"], x(2)["x"])


def test_a_model_that_tells_no_inputs_gets_all_arrays():
    engine = op(model="Any")
    (answer,) = ask(engine, {"a": np.zeros(2), "b": np.ones(2), "text": "no array"})
    assert runs(engine) == [["a", "b"]] and answer["outputs"]["b"].tolist() == [2, 2]


def test_python_around_a_model_gets_the_very_dict_back_and_its_device():
    (answer,) = ask(op("Around", model="Model", options={"plus": 1}), x(1))
    outputs = answer["outputs"]
    assert outputs["y"].tolist() == [[4, 4, 4]]
    assert (outputs["total"], outputs["note"], outputs["device"]) == (3.0, "kept", "cpu:0")


def test_a_postprocess_alone():
    assert ask(op("After", model="Model"), x(1))[0]["outputs"]["z"].tolist() == [[3, 3, 3]]


def test_what_preprocess_keeps_in_self_belongs_to_its_request():
    answers = ask(op("Around", model="Model"), x(1), x(2), {"x": None}, x(3), x(3))
    assert [a["outputs"]["total"] if "outputs" in a else None for a in answers] == [3.0, 6.0, None, 9.0, 9.0]


def test_arrays_that_lie_elsewhere_are_inputs_too():
    inputs = x(1, rows=4)
    (answer,) = ask(op(model="Model"), inputs, outside=[inputs["x"]])
    np.testing.assert_array_equal(answer["outputs"]["y"], x(2, rows=4)["x"])


# ---- skips and mini-batches


def test_a_skip_stands_for_the_whole_request_or_a_mini_batch():
    engine = op("Batches", model="Model")
    one, other, third = ask(
        engine, {"items": [x(1)["x"], None, x(2, 3)["x"]]}, {"items": []}, {"items": [None, x(4)["x"]]}
    )
    seen = one["outputs"]["seen"]
    assert seen[0]["y"].tolist() == [[2, 2, 2]] and seen[1] == {"skipped": 1} and seen[2]["y"].tolist() == [[4] * 3] * 3
    assert other == {"outputs": {"seen": "nothing"}}
    assert third["outputs"]["seen"][0] == {"skipped": 0} and third["outputs"]["seen"][1]["y"].tolist() == [[8] * 3]
    assert runs(engine) == [5]


def test_without_a_postprocess_the_outputs_of_mini_batches_are_put_together():
    (answer,) = ask(op("BatchesOnly", model="Model"), {"items": [x(1)["x"], None, x(2, 2)["x"]]})
    assert answer["outputs"]["y"][:, 0].tolist() == [2, 0, 4, 4]


@pytest.mark.parametrize(
    ("items", "kind", "message"),
    [
        ([], "output", "preprocess returned an empty list, and there is no postprocess"),
        (
            [x(1)["x"], np.zeros((1, 4))],
            "feeds",
            "op 'det', mini-batch 1: what preprocess returned does not fit the model",
        ),
    ],
)
def test_mini_batches_that_cannot_be_put_together(items, kind, message):
    bad, good = ask(op("BatchesOnly", model="Model"), {"items": items}, {"items": [x(1)["x"]]})
    assert bad["error"][0] == kind and message in bad["error"][2]
    assert good["outputs"]["y"].tolist() == [[2, 2, 2]]


# ---- failures: each belongs to its request


FITS = "op 'det': what preprocess returned does not fit the model: "
FAILURES = [  # what the middle one of three requests does -> kind, code, text
    (
        {"say": "none"},
        "output",
        None,
        "op 'det': preprocess returned None; expected a dict of input name -> array, or a li",
    ),
    ({"say": "array"}, "output", None, "op 'det': preprocess returned an array of shape (2, 3); expected a dict"),
    ({"say": "tuple"}, "output", None, "op 'det': preprocess returned a tuple of 1; expected a dict"),
    (
        {"say": "list of arrays"},
        "output",
        None,
        "preprocess returned a list with an array of shape (3,) at 1; expected",
    ),
    ({"say": "unknown"}, "feeds", None, FITS + "'xx' is no input of the model, which has: x; did you mean x?"),
    ({"say": "missing"}, "feeds", None, FITS + "the model's input 'x' is missing; there is: nothing"),
    ({"say": "ragged"}, "feeds", None, FITS + "input 'x' is a list that makes no array"),
    ({"say": "objects"}, "feeds", None, FITS + "input 'x' is an array of object; the model takes numbers"),
    ({"say": "text"}, "feeds", None, FITS + "input 'x' is an array of <U1; the model takes numbers"),
    (
        {"say": "complex"},
        "feeds",
        None,
        FITS + "input 'x' is complex128, the model takes float32: convert it with .ast",
    ),
    (
        {"say": "shape"},
        "feeds",
        None,
        FITS + "input 'x' has shape (1, 4), the model takes (batch, 3) (axis 0 holds the",
    ),
    ({"say": "axes"}, "feeds", None, FITS + "input 'x' has shape (3,), the model takes (batch, 3)"),
    ({"say": "second"}, "feeds", None, "op 'det', mini-batch 1: what preprocess returned does not fit the model: inpu"),
    ({"say": "bad luck"}, "engine", None, "op 'det', mini-batch 1: the model raised ArithmeticError: 13 in a row"),
    ({"say": "raise"}, "engine", None, "op 'det': preprocess raised KeyError: 'key'"),
    ({"say": "refuse"}, "product", 51, "no cats"),
    (x(13), "engine", None, "op 'det': the model raised ArithmeticError: 13 in a row"),
    (x(1, post="none"), "output", None, "op 'det': postprocess returned None; expected a dict of name -> value"),
    (x(1, post="list"), "output", None, "op 'det': postprocess returned a list of 1; expected a dict of name -> value"),
    (
        x(1, post="set"),
        "output",
        None,
        "op 'det': postprocess returned something that cannot be sent: 'boxes'[1] is a set",
    ),
    (
        x(1, post="circle"),
        "output",
        None,
        "postprocess returned something that cannot be sent: it is nested too deeply",
    ),
    (x(1, post="raise"), "engine", None, "op 'det': postprocess raised KeyError: 'post'"),
    (x(1, post="refuse"), "product", 50, "too late"),
]


@pytest.mark.parametrize(("inputs", "kind", "code", "text"), FAILURES, ids=lambda value: str(value)[-40:])
def test_what_is_wrong_fails_its_own_request_only(inputs, kind, code, text):
    engine = op("Returns", model="Model")
    first, bad, last = ask(engine, x(1), inputs, x(3))
    assert bad["error"][:2] == [kind, code]
    assert text in bad["error"][2]
    assert ("Traceback" in bad["error"][3]) == ("raised" in text)
    assert first["outputs"]["y"].tolist() == [[2, 2, 2]] and last["outputs"]["y"].tolist() == [[6, 6, 6]]
    assert ask(engine, x(4))[0]["outputs"]["y"].tolist() == [[8, 8, 8]]


ALONE = [
    ({"say": "refuse"}, "product", 77, "not today"),
    ({"say": "raise"}, "engine", None, "op 'det': predict raised ValueError: odd"),
    ({"say": "none"}, "output", None, "op 'det': predict returned None; expected a dict of name -> value"),
]


@pytest.mark.parametrize(("inputs", "kind", "code", "text"), ALONE, ids=lambda value: str(value)[:20])
def test_python_alone_fails_likewise(inputs, kind, code, text):
    good, bad = ask(op("Alone"), x(1), inputs)
    assert bad["error"][:3] == [kind, code, text] and "outputs" in good


def test_a_model_alone_tells_what_it_did_not_get():
    missing, wrong = ask(op(model="Model"), {"image": 1}, {"x": np.zeros((1, 4))})
    assert missing["error"][2] == (
        "op 'det': it got no 'x', which the model needs, and has no preprocess to make it of: 'image'"
    )
    assert wrong["error"][2].startswith("op 'det': what it got does not fit the model: input 'x' has shape (1, 4)")


def test_integers_that_do_not_fit_are_refused():
    fits, wrong = ask(
        op(model="Words"),
        {"ids": np.ones((1, 2), np.uint64), "mask": np.ones((1, 2), np.int8)},
        {"ids": np.full((1, 2), 2**63, np.uint64), "mask": np.ones((1, 2), np.int8)},
    )
    assert fits["outputs"]["sums"].tolist() == [2]
    assert "which do not fit the model's int64" in wrong["error"][2]


def test_a_broken_engine_is_not_a_request_s_failure(monkeypatch):
    engine = op(model="Model")

    def broken(*_):
        raise EngineBroken("gone")

    monkeypatch.setattr(engine._inner, "predict", broken)
    for inputs in ([x(1)], [x(1), x(2)]):
        with pytest.raises(EngineBroken):
            ask(engine, *inputs)


@pytest.mark.parametrize("inputs", [{"say": "broken"}, x(1, post="broken")])
def test_the_python_of_an_op_can_say_that_it_is_broken(inputs):
    with pytest.raises(EngineBroken, match="gone"):
        ask(op("Returns", model="Model"), x(1), inputs)


# ---- what cannot be built


BUILDS = [
    ({}, "op 'det': it has neither a model nor Python"),
    ({"python": "Nothing"}, "expected an object with a predict method, or a callable"),
    (
        {"python": "Nothing", "model": "Model"},
        "has neither preprocess nor postprocess, one of which is needed around a",
    ),
    ({"python": "Missing"}, "ops_of_tests.py:Missing cannot be loaded: AttributeError"),
    ({"python": "NoDevice"}, "ops_of_tests.py:NoDevice could not be built with device='cpu:0': TypeError"),
    ({"python": "Unhappy", "options": {"size": 3}}, "device='cpu:0', size=3: OSError: no dictionary file"),
    ({"model": "Missing"}, "op 'det': "),
]


@pytest.mark.parametrize(("options", "message"), BUILDS, ids=[message[-30:] for _, message in BUILDS])
def test_an_op_that_cannot_be_built_says_why(options, message):
    with pytest.raises(RuntimeError) as caught:
        op(**options)
    assert str(caught.value).startswith("op 'det': ") and message in str(caught.value)


# ---- the reply


def test_the_reply_is_written_to_its_destination_where_it_fits():
    engine = op("Alone")
    request = Packed([{"inputs": x(1)}]).to_array()
    room = np.zeros(4096, np.uint8)
    assert engine.predict(["request"], [request], {"reply": room})["reply"] is room
    assert unpack(room)[0]["outputs"]["y"].tolist() == [[2, 2, 2]]
    small = np.zeros(64, np.uint8)
    found = engine.predict(["request"], [request], {"reply": small})["reply"]
    assert found is not small and not small.any() and unpack(found)[0]["outputs"]["y"].tolist() == [[2, 2, 2]]


def test_no_request_is_no_answer():
    assert call(op(model="Model"), []) == []


# ---- the public names


def test_the_public_classes():
    assert Skip([1]).values == [1] and repr(Skip(1)) == "Skip(1)"
    error = ProductError("no", 51)
    assert (error.text, error.code, str(error)) == ("no", 51, "no")
    for wrong in ((1, 2), ("text", "51"), ("text", True)):
        with pytest.raises(TypeError, match="expected ProductError"):
            ProductError(*wrong)
