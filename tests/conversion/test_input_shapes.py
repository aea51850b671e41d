"""Batch axes, rows per device, and shapes: pure functions, case by case."""

import pytest

from ascend_parallel import TensorSpec, UsageError
from ascend_parallel.conversion.shapes import (
    check_input_shape,
    divide_rows,
    fill_shapes,
    find_batch_axes,
    find_total_rows,
    format_input_shape,
    parse_input_shape,
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
    "declared from the end": (specs(x=("a", "b", 4)), {"x": -2}, {"x": 1}),
    "declared, others with the same name follow": (
        specs(x=("n", 4), y=("n", 3), t=("s",)),
        {"x": 0},
        {"x": 0, "y": 0, "t": None},
    ),
    "declared to have none": (specs(x=(None, 4), t=(None,)), {"t": None}, {"x": 0, "t": None}),
}


@pytest.mark.parametrize(("inputs", "declared", "axes"), AXES.values(), ids=AXES)
def test_the_batch_axis(inputs, declared, axes):
    assert find_batch_axes(inputs, declared) == axes


NO_AXES = {
    "scalars alone": (specs(x=(), y=()), {}, r"no input of the model has a batch axis .*: x\[\], y\[\]; declare"),
    "all declared to have none": (specs(x=("n", 4)), {"x": None}, "no input of the model has a batch axis"),
    "no inputs": ([], {}, "it has no inputs"),
    "two words": (
        specs(x=("a", 4), y=("b", 4)),
        {},
        r"the batch axis is ambiguous: x\[a, 4\], y\[b, 4\]; declare it with --b",
    ),
    "two sizes": (specs(x=(2, 4), y=(3, 4)), {}, r"the batch axis is ambiguous.*--batch-axis y=none"),
    "unknown name": (specs(x=(2, 4)), {"z": 0}, "--batch-axis names 'z'; the model's inputs are x"),
    "no such axis": (specs(x=(2, 4)), {"x": 2}, r"axis 2 for 'x', which has the shape \[2, 4\]"),
}


@pytest.mark.parametrize(("inputs", "declared", "message"), NO_AXES.values(), ids=NO_AXES)
def test_ambiguous_and_invalid_axes_are_refused(inputs, declared, message):
    with pytest.raises(UsageError, match=message):
        find_batch_axes(inputs, declared)


def test_a_name_may_contain_colons_and_spaces_are_ignored():
    assert parse_input_shape(" x:0:2,4 ; y:-1,3;") == {"x:0": (2, 4), "y": (-1, 3)}
    assert format_input_shape({"x:0": (2, 4), "t": (), "y": (1,)}) == "x:0:2,4;y:1"


@pytest.mark.parametrize("text", ["x", "x:", ":2", "x:a", "x:0,4", "x:2,-2", "x:2,,4", "x=2"])
def test_malformed_shapes_are_refused(text):
    with pytest.raises(UsageError, match="--input-shape has the part .*; expected NAME:SIZE,SIZE,"):
        parse_input_shape(text)


def test_a_duplicate_name_is_refused():
    with pytest.raises(UsageError, match="names 'x' twice"):
        parse_input_shape("x:1;x:2")


def shapes_per_device(inputs, text="", per_device=(), devices=2):
    requested = parse_input_shape(text)
    axes = find_batch_axes(inputs, {})
    check_input_shape(inputs, axes, requested)
    total = find_total_rows(inputs, axes, requested)
    return [
        fill_shapes(inputs, axes, requested, n)
        for n in divide_rows(total, per_device, devices, is_requested=bool(requested))
    ]


OPEN = specs(x=("batch", 4, "height"), t=(1,), n=())
SETTLED = {
    "the model's batch": ((specs(x=(6, 4), t=(1,)), ""), [{"x": (3, 4), "t": (1,)}]),
    "the requested batch": ((OPEN, "x:2,4,64"), [{"x": (1, 4, 64), "t": (1,), "n": ()}]),
    "other than the model's": ((specs(x=(6, 4)), "x:4,4"), [{"x": (2, 4)}]),
    "rows of a device": ((OPEN, "x:-1,-1,64", [1, 4]), [{"x": (n, 4, 64), "t": (1,), "n": ()} for n in (1, 4)]),
    "both, and they fit": ((OPEN, "x:8,4,64", [2]), [{"x": (2, 4, 64), "t": (1,), "n": ()}]),
}


@pytest.mark.parametrize(("given", "shapes"), SETTLED.values(), ids=SETTLED)
def test_shapes_of_a_device(given, shapes):
    assert shapes_per_device(*given) == shapes


UNSETTLED = {
    "not divisible": (
        (specs(x=(2, 4)), "", (), 3),
        "the batch of 2 is not divisible by 3 devices; .* a batch of 3",
    ),
    "requested, not divisible": ((OPEN, "x:3,4,8"), "the batch of 3 is not divisible by 2 devices"),
    "not by these": ((OPEN, "x:4,4,8", [3]), "a batch of 4, which is not divisible by the 3 rows"),
    "no batch": (
        (specs(x=("n", 4)), ""),
        "batch of the model is open: set the rows per device with --batch-per-device",
    ),
    "an open size": (
        (OPEN, "", [1]),
        r"open axes, \[batch, 4, height\]; set their sizes: --input-shape \"x:1,4,\?\"",
    ),
    "an unknown name": ((OPEN, "X:2,4,8"), "--input-shape names 'X'; the model's inputs are x, t, n"),
    "another rank": ((OPEN, "x:2,4"), r"gives 'x' 2 sizes, but its shape in the model is \[batch, 4, height\]"),
    "another size": ((OPEN, "x:2,5,8"), "gives 'x' the size 5 on axis 1, which the model fixes to 4"),
    "different rows": (
        (specs(x=(None, 4), t=(None,), y=(None, 3)), "x:2,4;t:1;y:2,3"),
        "'x' has 2, 't' has 1, 'y' has 2; .*--batch-axis t=none",
    ),
    "no rows": ((OPEN, "x:-1,4,8", [0]), "--batch-per-device has 0; expected numbers of 1 or more"),
    "rows twice": ((OPEN, "x:-1,4,8", [2, 2]), "--batch-per-device has 2; expected .* each once"),
}


@pytest.mark.parametrize(("given", "message"), UNSETTLED.values(), ids=UNSETTLED)
def test_shapes_that_do_not_fit_are_refused_with_their_numbers(given, message):
    with pytest.raises(UsageError, match=message):
        shapes_per_device(*given)
