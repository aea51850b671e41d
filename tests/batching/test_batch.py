"""What a batch means: batch axes, chunks, dtypes; pure functions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_parallel import ShapeError, TensorSpec, UsageError
from ascend_parallel.batching.batch import Batch, cut, find_batch, fit_dtype, show_shape

ROWS = st.integers(1, 60)


def spec(name, *shape, dtype="float32"):
    return TensorSpec(name, dtype, shape)


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


def find(specs, arrays, declared=None):
    names = [s.name for s in specs] if specs else [f"input{i}" for i in range(len(arrays))]
    return find_batch(specs, names, arrays, declared or {})


# ---- cut


@given(
    rows=ROWS,
    fixed=st.none() | st.integers(1, 20),
    size=st.none() | st.integers(1, 20),
    parts=st.integers(1, 70),
)
def test_chunks_cover_all_rows_once_and_in_order(rows, fixed, size, parts):
    chunks = cut(rows, fixed_rows=fixed, chunk_size=size, parts=parts)
    assert [row for start, stop in chunks for row in range(start, stop)] == list(range(rows))
    sizes = [stop - start for start, stop in chunks]
    assert min(sizes) >= 1
    if fixed or size:
        assert set(sizes[:-1]) <= {fixed or size}
        assert sizes[-1] <= (fixed or size)
    else:
        assert len(chunks) == min(parts, rows)
        assert max(sizes) - min(sizes) <= 1
        assert sizes == sorted(sizes, reverse=True)
        assert sizes == [len(part) for part in np.array_split(np.arange(rows), len(chunks))]


def test_the_split_rule_of_the_docstring():
    chunks = cut(10, fixed_rows=None, chunk_size=None, parts=4)
    assert chunks == [(0, 3), (3, 6), (6, 8), (8, 10)]


# ---- find_batch


@given(rows=ROWS, dim=st.sampled_from(["batch", None, "fixed"]), fixed=st.integers(1, 9), others=st.integers(0, 3))
def test_one_input_of_any_rows(rows, dim, fixed, others):
    rest = (2,) * others
    wanted = find([spec("x", fixed if dim == "fixed" else dim, *rest)], [zeros(rows, *rest)])
    if dim != "fixed":
        assert wanted == Batch(rows, None, (0,))
    elif rows == fixed:
        assert wanted == Batch(1, None, (None,))  # just the model's size: one chunk, whole
    else:
        assert wanted == Batch(rows, fixed, (0,))


@given(rows=ROWS, axis=st.integers(-3, 2), declared_other=st.booleans())
def test_a_declared_axis_is_taken(rows, axis, declared_other):
    shape = [2, 2, 2]
    shape[axis] = rows
    wanted = [2, 2, 2]
    wanted[axis] = "batch"
    declared = {"x": axis, "other": None} if declared_other else {"x": axis}
    assert find([spec("x", *wanted)], [zeros(*shape)], declared) == Batch(rows, None, (axis % 3,))


@given(rows=ROWS, fixed=st.integers(1, 4))
def test_stable_diffusion_s_timestep_goes_whole_to_every_chunk(rows, fixed):
    specs = [spec("sample", fixed, 4, 8, 8), spec("timestep", 1), spec("ctx", fixed, 77, 16)]
    batch = find(specs, [zeros(rows * fixed, 4, 8, 8), zeros(1), zeros(rows * fixed, 77, 16)])
    if rows == 1:
        assert batch == Batch(1, None, (None, None, None))
    else:
        assert batch == Batch(rows * fixed, fixed, (0, None, 0))


@pytest.mark.parametrize(
    ("specs", "shapes", "declared", "wanted"),
    [
        # name of the axis differs from all others': one step for all rows
        ([("s", "batch", 4), ("t", "steps")], [(5, 4), (1,)], {}, Batch(5, None, (0, None))),
        ([("s", "batch", 4), ("t", "batch")], [(5, 4), (5,)], {}, Batch(5, None, (0, 0))),
        ([("s", "batch", 4), ("t", "steps")], [(1, 4), (1,)], {}, Batch(1, None, (0, 0))),
        ([("s", "batch", 4), ("t", None)], [(5, 4), (1,)], {"t": None}, Batch(5, None, (0, None))),
        ([("s", 2, 4), ("t",)], [(6, 4), ()], {}, Batch(6, 2, (0, None))),
        ([("s", "batch", 4), ("table", 7, 2)], [(6, 4), (7, 2)], {}, Batch(6, None, (0, None))),
        ([("s", 2, 4), ("t", "batch")], [(6, 4), (6,)], {}, Batch(6, 2, (0, 0))),
        ([("s", 3, "batch")], [(3, 6)], {"s": 1}, Batch(6, None, (1,))),
        ([("s", 3, 2)], [(3, 6)], {"s": -1}, Batch(6, 2, (1,))),
        ([("s", 3, 2)], [(3, 2)], {"s": None}, Batch(1, None, (None,))),
        (None, [(5, 4), ()], {}, Batch(5, None, (0, None))),
        (None, [()], {}, Batch(1, None, (None,))),
        (None, [(5, 4), (1,)], {"input1": None}, Batch(5, None, (0, None))),
    ],
    ids=str,
)
def test_which_inputs_are_sliced(specs, shapes, declared, wanted):
    given_specs = [spec(*s) for s in specs] if specs else None
    assert find(given_specs, [zeros(*shape) for shape in shapes], declared) == wanted


@pytest.mark.parametrize(
    ("specs", "shapes", "declared", "words"),
    [
        # the same word, or none, and other sizes: never a guess
        ([("s", "batch", 4), ("t", "batch")], [(5, 4), (1,)], {}, "'s' has 5, 't' has 1; .*batch_axes"),
        ([("s", None, 4), ("t", None)], [(5, 4), (1,)], {}, "'s' has 5, 't' has 1; .*batch_axes"),
        ([("s", "batch", 4), ("t", "steps")], [(5, 4), (3,)], {}, "disagree.*'t' has 3.*batch_axes"),
        (None, [(5, 4), (1,)], {}, "disagree about the number of rows: 'input0' has 5, 'input1' has 1"),
        ([("s", 2, 4), ("t", 2)], [(6, 4), (2,)], {}, r"'t' has 2 rows where 's' has 6.*batch_axes=\{'t': None\}"),
        ([("s", 2, 4), ("t", 3)], [(6, 4), (6,)], {}, r"2 of 's', 3 of 't'.*batch_axes"),
        ([("s", "batch", 4)], [(0, 4)], {}, "'s' has 0 rows; a call needs at least one"),
        ([("s", 2, 4)], [(0, 4)], {}, "'s' has 0 rows"),
        (None, [(0, 4)], {}, "'input0' has 0 rows"),
        ([("s", "batch", 4)], [(5, 3)], {}, r"'s' has shape \(5, 3\), the model takes \(batch, 4\).*batch axis"),
        ([("s", "batch", 4)], [(5, 4, 1)], {}, r"'s' has shape \(5, 4, 1\), the model takes \(batch, 4\)"),
        ([("s", 2, 4)], [(4,)], {}, r"'s' has shape \(4,\), the model takes \(2, 4\)"),
        ([("s", 2, 4)], [(4, 4)], {"s": None}, r"'s' has shape \(4, 4\), the model takes \(2, 4\)"),
        ([("s", "batch", 4)], [(5, 4)], {"s": 2}, r"axis 2 of 's', but its shape \(5, 4\) has no such axis"),
        ([("s",)], [()], {"s": 0}, r"axis 0 of 's', but its shape \(\) has no such axis"),
    ],
    ids=str,
)
def test_what_is_ambiguous_or_wrong_is_said(specs, shapes, declared, words):
    given_specs = [spec(*s) for s in specs] if specs else None
    with pytest.raises(ShapeError, match=words) as caught:
        find(given_specs, [zeros(*shape) for shape in shapes], declared)
    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, ValueError)


def test_a_batch_of_just_the_model_s_size_is_one_chunk_whatever_is_declared():
    specs = [spec("a", 1, 2), spec("b", 2)]
    assert find(specs, [zeros(1, 2), zeros(2)], {"a": 1}) == Batch(2, 2, (1, None))
    with pytest.raises(ShapeError, match="'b' has 2 rows where 'a' has 4"):
        find(specs, [zeros(1, 4), zeros(2)], {"a": 1})


def test_shapes_are_shown_with_the_model_s_own_words():
    assert show_shape(("batch", 4, None)) == "(batch, 4, ?)"
    assert show_shape(("batch",)) == "(batch,)"
    assert show_shape(()) == "()"


# ---- dtypes

DTYPES = ["bool", "uint8", "int8", "int16", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64"]


@settings(max_examples=1000)
@given(have=st.sampled_from(DTYPES), want=st.sampled_from(DTYPES), data=st.data())
def test_a_dtype_is_converted_only_where_every_value_survives(have, want, data):
    if np.dtype(have).kind in "iu":
        limits = np.iinfo(have)
        numbers = st.integers(int(limits.min), int(limits.max))
    else:
        numbers = st.sampled_from([0, 1, 1.5, -2.25, 1024]) if have != "bool" else st.booleans()
    array = np.array(data.draw(st.lists(numbers, min_size=1, max_size=4)), have)
    try:
        got = fit_dtype(spec("x", "batch", dtype=want), array)
    except ShapeError as error:
        assert "'x'" in str(error) and want in str(error)
        return
    assert got == np.dtype(want)
    survived = array.astype(got)
    assert [int(v) if v == int(v) else float(v) for v in survived.tolist()] == [
        int(v) if v == int(v) else float(v) for v in array.tolist()
    ]


@pytest.mark.parametrize("have", [">f4", ">i8", ">f8"])
def test_byte_order_is_made_native(have):
    want = np.dtype(have).newbyteorder("=")
    assert fit_dtype(spec("x", "batch", dtype=want.name), np.zeros(3, have)) == want
    assert fit_dtype(spec("x", "batch", dtype=want.name), np.zeros(3, have)).isnative


@pytest.mark.parametrize(
    ("have", "want", "words"),
    [
        (np.zeros(2), "float32", r"'x' is float64, the model takes float32: convert it with \.astype\('float32'\)"),
        (np.zeros(2, np.float32), "int64", r"'x' is float32, the model takes int64: .*astype\('int64'\)"),
        (np.array([1, 2**40]), "int32", "'x' holds values from 1 to 1099511627776, which do not fit the model's int32"),
        (np.array([2**53 + 1]), "float64", "'x' holds values from 9007199254740993 .* do not fit the model's float64"),
        (np.array([-1, 2]), "uint8", "'x' holds values from -1 to 2, which do not fit the model's uint8"),
    ],
    ids=str,
)
def test_a_silent_loss_is_an_error(have, want, words):
    with pytest.raises(ShapeError, match=words):
        fit_dtype(spec("x", "batch", dtype=want), have)
