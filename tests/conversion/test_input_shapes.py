"""Which axis holds the rows, how many a device gets, and what must be said: pure functions, case by case."""

import pytest

from ascend_parallel import TensorSpec, UsageError
from ascend_parallel.conversion.shapes import (
    check_asked,
    fill_shapes,
    find_batch_axes,
    find_whole_rows,
    read_input_shape,
    share_rows,
    write_input_shape,
)


def specs(**shapes):
    return [TensorSpec(name, "float32", tuple(shape)) for name, shape in shapes.items()]


AXES = {
    "one word": (specs(x=("batch", 4), t=(1,)), {}, {"x": 0, "t": None}),
    "no words": (specs(x=(None, 4), y=(None, 3)), {}, {"x": 0, "y": 0}),
    "the word with batch in it": (specs(x=("Batch_size", 4), t=("steps",)), {}, {"x": 0, "t": None}),
    "fixed": (specs(x=(2, 4, 64, 64), t=(1,), y=(2, 77, 1024)), {}, {"x": 0, "t": None, "y": 0}),
    "fixed, a mask for all": (specs(x=(2, 4), mask=(1, 4, 4)), {}, {"x": 0, "mask": None}),
    "fixed to one": (specs(x=(1, 4), t=(1,), n=()), {}, {"x": 0, "t": None, "n": None}),
    "fixed, one size an input": (specs(x=(8,), y=(8,)), {}, {"x": 0, "y": 0}),
    "a scalar": (specs(x=("batch", 4), t=()), {}, {"x": 0, "t": None}),
    "declared": (specs(x=("a", "b", 4), y=("c", 3)), {"x": 1, "y": 0}, {"x": 1, "y": 0}),
    "declared from behind": (specs(x=("a", "b", 4)), {"x": -2}, {"x": 1}),
    "declared, others of the word follow": (
        specs(x=("n", 4), y=("n", 3), t=("s",)),
        {"x": 0},
        {"x": 0, "y": 0, "t": None},
    ),
    "declared to have none": (specs(x=(None, 4), t=(None,)), {"t": None}, {"x": 0, "t": None}),
}


@pytest.mark.parametrize(("inputs", "declared", "axes"), AXES.values(), ids=AXES)
def test_the_axis_of_the_rows(inputs, declared, axes):
    assert find_batch_axes(inputs, declared) == axes


NO_AXES = {
    "scalars alone": (specs(x=(), y=()), {}, r"no input of the model has a batch axis .*: x\[\], y\[\]; say which"),
    "all declared to have none": (specs(x=("n", 4)), {"x": None}, "no input of the model has a batch axis"),
    "no inputs": ([], {}, "it has no inputs"),
    "two words": (
        specs(x=("a", 4), y=("b", 4)),
        {},
        r"several could be meant: x\[a, 4\], y\[b, 4\]; say which with --b",
    ),
    "two sizes": (specs(x=(2, 4), y=(3, 4)), {}, r"no batch axis could be found.*--batch-axis y=none"),
    "unknown name": (specs(x=(2, 4)), {"z": 0}, "--batch-axis names 'z'; the model's inputs are x"),
    "no such axis": (specs(x=(2, 4)), {"x": 2}, r"axis 2 of 'x', which has the shape \[2, 4\]"),
}


@pytest.mark.parametrize(("inputs", "declared", "message"), NO_AXES.values(), ids=NO_AXES)
def test_what_could_be_read_in_two_ways_is_told(inputs, declared, message):
    with pytest.raises(UsageError, match=message):
        find_batch_axes(inputs, declared)


def test_a_name_may_hold_colons_and_spaces_do_no_harm():
    assert read_input_shape(" x:0:2,4 ; y:-1,3;") == {"x:0": (2, 4), "y": (-1, 3)}
    assert write_input_shape({"x:0": (2, 4), "t": (), "y": (1,)}) == "x:0:2,4;y:1"


@pytest.mark.parametrize("text", ["x", "x:", ":2", "x:a", "x:0,4", "x:2,-2", "x:2,,4", "x=2"])
def test_shapes_of_another_form_are_refused(text):
    with pytest.raises(UsageError, match="--input-shape has the part .*; expected NAME:SIZE,SIZE,"):
        read_input_shape(text)


def test_a_name_twice_is_refused():
    with pytest.raises(UsageError, match="names 'x' twice"):
        read_input_shape("x:1;x:2")


def settle(inputs, text="", per_device=(), devices=2):
    asked = read_input_shape(text)
    axes = find_batch_axes(inputs, {})
    check_asked(inputs, axes, asked)
    whole = find_whole_rows(inputs, axes, asked)
    return [fill_shapes(inputs, axes, asked, n) for n in share_rows(whole, per_device, devices, is_told=bool(asked))]


OPEN = specs(x=("batch", 4, "height"), t=(1,), n=())
SETTLED = {
    "the model's batch": ((specs(x=(6, 4), t=(1,)), ""), [{"x": (3, 4), "t": (1,)}]),
    "the batch that was said": ((OPEN, "x:2,4,64"), [{"x": (1, 4, 64), "t": (1,), "n": ()}]),
    "other than the model's": ((specs(x=(6, 4)), "x:4,4"), [{"x": (2, 4)}]),
    "rows of a device": ((OPEN, "x:-1,-1,64", [1, 4]), [{"x": (n, 4, 64), "t": (1,), "n": ()} for n in (1, 4)]),
    "both, and they fit": ((OPEN, "x:8,4,64", [2]), [{"x": (2, 4, 64), "t": (1,), "n": ()}]),
}


@pytest.mark.parametrize(("given", "shapes"), SETTLED.values(), ids=SETTLED)
def test_shapes_of_a_device(given, shapes):
    assert settle(*given) == shapes


UNSETTLED = {
    "does not divide": ((specs(x=(2, 4)), "", (), 3), "the batch of 2 does not divide by 3 devices; .* a batch of 3"),
    "said, does not divide": ((OPEN, "x:3,4,8"), "the batch of 3 does not divide by 2 devices"),
    "not into these": ((OPEN, "x:4,4,8", [3]), "a batch of 4, which does not divide into the 3 rows"),
    "no batch": ((specs(x=("n", 4)), ""), "leaves its batch open: say with --batch-per-device"),
    "an open size": ((OPEN, "", [1]), r"open, \[batch, 4, height\]; give them: --input-shape \"x:1,4,\?\""),
    "an unknown name": ((OPEN, "X:2,4,8"), "--input-shape names 'X'; the model's inputs are x, t, n"),
    "another rank": ((OPEN, "x:2,4"), r"gives 'x' 2 sizes; the model has it of the shape \[batch, 4, height\]"),
    "another size": ((OPEN, "x:2,5,8"), "gives 'x' the size 5 on axis 1, which the model fixes to 4"),
    "different rows": (
        (specs(x=(None, 4), t=(None,), y=(None, 3)), "x:2,4;t:1;y:2,3"),
        "'x' has 2, 't' has 1, 'y' has 2; .*--batch-axis t=none",
    ),
    "no rows": ((OPEN, "x:-1,4,8", [0]), "--batch-per-device has 0; expected numbers of 1 or more"),
    "rows twice": ((OPEN, "x:-1,4,8", [2, 2]), "--batch-per-device has 2; expected .* each once"),
}


@pytest.mark.parametrize(("given", "message"), UNSETTLED.values(), ids=UNSETTLED)
def test_what_does_not_fit_is_told_with_its_numbers(given, message):
    with pytest.raises(UsageError, match=message):
        settle(*given)
