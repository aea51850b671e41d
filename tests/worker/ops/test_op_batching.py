"""Which feeds an op runs together, how they are padded, and that it makes no difference to anyone."""

import numpy as np
import pytest
from calling import ask, op, runs, x
from hypothesis import given, settings
from hypothesis import strategies as st


def values(answers):
    """Return the first column of each answer's y; an error's kind."""
    return [a["outputs"]["y"][:, 0].tolist() if "outputs" in a else a["error"][0] for a in answers]


def test_requests_are_run_together_up_to_the_largest_batch():
    engine = op(model="Model", max_batch_size=4)
    assert values(ask(engine, x(1), x(2, 2), x(3), x(4, 2))) == [[2], [4, 4], [6], [8, 8]]
    assert runs(engine) == [4, 2]


def test_without_a_largest_batch_all_rows_are_one_run():
    engine = op(model="Model")
    ask(engine, *[x(i, 5) for i in range(7)])
    assert runs(engine) == [35]


def test_a_large_request_is_run_in_slices():
    engine = op(model="Model", max_batch_size=4)
    assert values(ask(engine, x(1, 10))) == [[2] * 10]
    assert runs(engine) == [4, 4, 2]


def test_a_model_of_fixed_batch_is_filled_up_with_its_last_row():
    engine = op(model="Model", max_batch_size=100, engine_options={"batch": 4, "outputs": 4})
    assert values(ask(engine, x(1), x(2, 2), x(3, 3))) == [[2], [4, 4], [6, 6, 6]]
    assert runs(engine) == [4, 4]
    assert values(ask(engine, x(5))) == [[10]]


def test_no_rows_are_no_rows():
    engine = op(model="Model", engine_options={"batch": 2, "outputs": 2})
    assert values(ask(engine, x(1, 0))) == [[]]
    assert ask(engine, x(1, 0))[0]["outputs"]["y"].shape == (0, 3)
    assert values(ask(op(model="Model"), x(1, 0), x(2, 1), x(1, 0))) == [[], [4], []]
    assert values(ask(op(model="Model"), x(1, 0))) == [[]]


def test_a_bad_feed_is_found_by_trying_each_alone():
    engine = op(model="Model")
    assert values(ask(engine, x(1), x(13), x(3))) == [[2], "engine", [6]]
    assert runs(engine) == [3, 1, 1, 1]
    assert values(ask(engine, x(1), x(2))) == [[2], [4]]
    assert runs(engine)[4:] == [2]


def test_an_engine_may_write_its_outputs_to_the_same_memory_each_time():
    engine = op(model="Reusing", max_batch_size=1)
    assert values(ask(engine, x(1), x(2, 2))) == [[2], [4, 4]]


# ---- outputs that cannot be split


def test_an_output_without_rows_makes_each_feed_a_run_of_its_own():
    engine = op(model="Mean")
    assert [a["outputs"]["mean"] for a in ask(engine, x(1), x(2), x(3))] == [1, 2, 3]
    assert runs(engine) == [1, 1, 1]


def test_that_is_found_out_where_the_model_does_not_tell():
    engine = op(model="Mean", engine_options={"outputs": None})
    for _ in range(2):
        assert [a["outputs"]["mean"] for a in ask(engine, x(1), x(2), x(3))] == [1, 2, 3]
    assert runs(engine) == [3, 1, 1, 1, 1, 1, 1]


def test_an_output_that_has_as_many_rows_by_chance_is_not_split():
    """Two rows and two hits: the split would look right, and the second request's row number would be wrong."""
    engine = op(model="Found")
    one = np.array([[1, 0, 0]], np.float32)
    for _ in range(2):
        answers = ask(engine, {"x": one}, {"x": one})
        assert [a["outputs"]["found"].tolist() for a in answers] == [[[0, 0]], [[0, 0]]]
    assert runs(engine) == [2, 1, 1, 1, 1]


def test_a_model_that_does_not_tell_is_compared_once_and_then_trusted():
    engine = op(model="Model", engine_options={"outputs": None})
    assert values(ask(engine, x(1), x(2))) == [[2], [4]]
    assert runs(engine) == [2, 1, 1]
    assert values(ask(engine, x(3), x(4))) == [[6], [8]]
    assert runs(engine) == [2, 1, 1, 2]


@pytest.mark.parametrize("options", [{"max_batch_size": 2}, {"engine_options": {"batch": 2}}])
def test_an_output_without_rows_forbids_slices(options):
    (answer,) = ask(op(model="Mean", **options), x(1, 3))
    assert answer["error"][0] == "output"
    assert "op 'det': the model's output 'mean' has shape () for 2 rows, so rows cannot be" in answer["error"][2]


# ---- inputs without rows


def test_an_input_without_rows_is_shared_where_it_is_equal():
    engine = op(model="Scaled")
    two, three = np.array([2], np.float32), np.array([3], np.float32)
    answers = ask(engine, x(1, factor=two), x(2, factor=three), x(3, 2, factor=two.copy()))
    assert values(answers) == [[2], [6], [6, 6]]
    assert runs(engine) == [3, 1]


# ---- pad rules


def words(*lengths):
    """Return requests of one row each; the ids are 1, 2, 3, ..."""
    return [{"ids": np.arange(1, n + 1)[None], "mask": np.ones((1, n), np.int64)} for n in lengths]


def rule(buckets, value=0, axis=1):
    return {name: {"axis": axis, "buckets": buckets, "value": value} for name in ("ids", "mask")}


def sums(answers):
    return [int(a["outputs"]["sums"][0]) if "outputs" in a else a["error"][2] for a in answers]


def test_without_a_rule_only_equal_lengths_are_run_together():
    engine = op(model="Words")
    assert sums(ask(engine, *words(2, 3, 2))) == [3, 6, 3]
    assert runs(engine) == [(2, 2), (1, 3)]


def test_buckets_are_the_lengths_that_there_are():
    engine = op(model="Words", pad=rule([8, 4]))
    *answers, long = ask(engine, *words(2, 3, 5, 4, 9))
    assert sums(answers) == [3, 6, 15, 10]
    assert runs(engine) == [(3, 4), (1, 8)]
    assert "input 'ids' has the size 9 along axis 1; the largest bucket is 8" in long["error"][2]


@pytest.mark.parametrize("axis", [1, -1])
def test_without_buckets_the_longest_counts(axis):
    engine = op(model="Words", pad=rule(None, axis=axis))
    answers = ask(engine, *words(2, 5, 3))
    assert sums(answers) == [3, 15, 6] and runs(engine) == [(3, 5)]
    assert sums(ask(engine, *words(2))) == [3] and runs(engine)[1:] == [(1, 2)]


def test_the_value_of_the_padding():
    engine = op(model="Words", pad={"ids": {"axis": 1, "buckets": [3], "value": 7}, **{"mask": rule([3], 1)["mask"]}})
    assert sums(ask(engine, *words(2))) == [1 + 2 + 7]


@pytest.mark.parametrize("axis", [0, 2, -2])
def test_a_rule_for_an_axis_that_cannot_be_padded(axis):
    (answer,) = ask(op(model="Words", pad=rule([4], axis=axis)), *words(2))
    assert f"input 'ids' has shape (1, 2), but the pad rule names axis {axis} of it" in answer["error"][2]


# ---- it makes no difference


row_counts = st.lists(st.integers(0, 5), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(
    counts=row_counts,
    largest=st.none() | st.integers(1, 6),
    fixed=st.none() | st.integers(1, 4),
    bad=st.sets(st.integers(0, 5)),
)
def test_each_answer_is_what_the_request_gets_alone(counts, largest, fixed, bad):
    batch = fixed or "batch"
    engine = op(model="Model", max_batch_size=largest, engine_options={"batch": batch, "outputs": batch})
    requests = [x(13 if i in bad and n else i, n) for i, n in enumerate(counts)]
    found = values(ask(engine, *requests))
    assert found == ["engine" if i in bad and n else [2.0 * i] * n for i, n in enumerate(counts)]
