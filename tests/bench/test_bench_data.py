"""Inputs created from a model's specs."""

import numpy as np
import pytest

from ascend_parallel import TensorSpec, UsageError
from ascend_parallel.bench.data import InputGenerator, read_shapes


def spec(name, *shape, dtype="float32"):
    return TensorSpec(name, dtype, shape)


def shapes_of(generator, rows):
    return {name: array.shape for name, array in generator.make(rows).items()}


@pytest.mark.parametrize(
    ("specs", "given", "rows_at_a_time", "shapes"),
    [
        ([spec("x", "batch", 3), spec("y", "batch")], "", 1, {"x": (6, 3), "y": (6,)}),
        ([spec("x", 2, 3), spec("scale")], "", 2, {"x": (6, 3), "scale": ()}),
        ([spec("x", "batch", 3), spec("table", 5, 8)], "", 1, {"x": (6, 3), "table": (5, 8)}),
        ([spec("x", "batch", 3), spec("t", "steps")], "", 1, {"x": (6, 3), "t": (1,)}),
        ([spec("x", None, 3), spec("t", None)], "t:1", 1, {"x": (6, 3), "t": (1,)}),
        ([spec("x", 1, 3), spec("t", 1)], "", 1, {"x": (6, 3), "t": (6,)}),
        ([spec("x", "n", "c", None)], "x:?,4,5", 1, {"x": (6, 4, 5)}),
        (None, "x:?,3;y:2;z:", 1, {"x": (6, 3), "y": (2,), "z": ()}),
    ],
)
def test_shapes_are_the_model_s_with_the_rows_of_the_call(specs, given, rows_at_a_time, shapes):
    generator = InputGenerator(specs, shapes=read_shapes(given))
    assert generator.rows_at_a_time == rows_at_a_time
    assert generator.given_rows is None
    assert shapes_of(generator, 6) == shapes


def test_shapes_or_a_file_may_determine_the_rows():
    assert InputGenerator([spec("x", "n", 3), spec("t", 1)], shapes=read_shapes("x:8,3")).given_rows == 8
    arrays = {"x": np.ones((4, 3)), "t": np.ones(1), "k": np.float32(2)}
    generator = InputGenerator(None, kind=arrays)
    assert generator.given_rows == 4
    assert generator.make(4) == arrays
    with pytest.raises(UsageError, match="leave one out"):
        InputGenerator(None, kind=arrays, shapes=read_shapes("x:8"))


def test_a_batch_axis_may_be_declared():
    specs = [spec("x", "steps", "batch", 4), spec("y", "batch", 4), spec("z", 1, 2)]
    generator = InputGenerator(specs, shapes=read_shapes("x:5,?,4"), batch_axes={"x": 1, "z": None})
    assert shapes_of(generator, 3) == {"x": (5, 3, 4), "y": (3, 4), "z": (1, 2)}


@pytest.mark.parametrize(
    ("dtype", "minimum", "maximum"),
    [("float32", 0, 1), ("float16", 0, 1), ("int64", 0, 1), ("int32", 0, 1), ("uint8", 0, 255), ("bool", False, True)],
)
def test_numbers_are_acceptable_for_any_model(dtype, minimum, maximum):
    numbers = InputGenerator([spec("x", "n", dtype=dtype)]).make(5000)["x"]
    assert numbers.dtype == dtype
    assert minimum <= numbers.min() < numbers.max() <= maximum
    np.testing.assert_array_equal(numbers, InputGenerator([spec("x", "n", dtype=dtype)]).make(5000)["x"])
    zeros = InputGenerator([spec("x", "n", dtype=dtype)], kind="zero").make(5)["x"]
    assert zeros.dtype == dtype and not zeros.any()


@pytest.mark.parametrize("text", ["x", ":3", "x:3,a", "x:3;", "x:-1,3", "x:3x224"])
def test_malformed_shapes_are_refused(text):
    with pytest.raises(UsageError, match="expected NAME:SIZE,SIZE"):
        read_shapes(text)


@pytest.mark.parametrize(
    ("specs", "given", "message"),
    [
        (None, "", "the model does not declare its inputs: give their shapes"),
        ([spec("x", "n", "h", None)], "", r"open axes: use --input-shape 'x:\?,h,N' with numbers in place of h, N"),
        ([spec("x", "n", 3)], "y:1", "--input-shape names 'y', but the model's inputs are x"),
        ([spec("x", "n", 3)], "x:2,4", "x:2,4 does not fit the model, which takes x:n,3"),
        ([spec("x", "n", 3)], "x:2", "does not fit"),
        ([spec("x", "n", "h")], "x:2,?", "does not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(specs, given, message):
    with pytest.raises(UsageError, match=message):
        InputGenerator(specs, shapes=read_shapes(given))


def test_other_kinds_of_data_are_refused():
    with pytest.raises(UsageError, match="data is 'ones'; expected random, zero, or arrays"):
        InputGenerator([spec("x", "n")], kind="ones")
