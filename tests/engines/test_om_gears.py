"""Which executions compute so many rows, with the input shapes that an OM model was converted for."""

import pytest

from ascend_parallel.worker.engines.om_gears import (
    Step,
    batch_gear,
    cover,
    dims_gear,
    image_size_gear,
    plan_steps,
    static_gear,
)


@pytest.mark.parametrize(
    ("rows", "sizes", "expected"),
    [
        (1, [1], [(0, 1, 1)]),
        (3, [1], [(0, 1, 1), (1, 2, 1), (2, 3, 1)]),
        (3, [4, 8], [(0, 3, 4)]),  # no smaller gear
        (1, [4, 8], [(0, 1, 4)]),  # even where most of it is padding
        (5, [1, 2, 4, 8], [(0, 5, 8)]),  # more than half full
        (4, [1, 2, 4, 8], [(0, 4, 4)]),
        (3, [1, 8], [(0, 1, 1), (1, 2, 1), (2, 3, 1)]),  # less than half full
        (4, [1, 8], [(0, 4, 8)]),  # half full
        (19, [1, 2, 4, 8], [(0, 8, 8), (8, 16, 8), (16, 19, 4)]),
        (17, [4, 8], [(0, 8, 8), (8, 16, 8), (16, 17, 4)]),
        (6, [2, 16], [(0, 2, 2), (2, 4, 2), (4, 6, 2)]),
    ],
)
def test_rows_are_covered(rows, sizes, expected):
    assert list(cover(rows, sizes)) == expected


def test_each_row_is_computed_once_and_no_gear_is_half_empty_without_need():
    for sizes in ([1, 2, 4, 8], [2, 3, 7], [4], [1, 100]):
        for rows in range(1, 60):
            steps = list(cover(rows, sizes))
            assert [row for start, stop, _ in steps for row in range(start, stop)] == list(range(rows))
            for start, stop, size in steps:
                assert size in sizes and stop - start <= size
                assert 2 * (stop - start) >= size or size == min(sizes)


STATIC = [static_gear(((4, 3), (1,)))]
OPEN_BATCH = ((-1, 3), (1,))
BATCH = [batch_gear(OPEN_BATCH, rows) for rows in (1, 4)]
OPEN_IMAGE = ((2, 3, -1, -1), (2, -1, -1))
IMAGE = [image_size_gear(OPEN_IMAGE, height, width) for height, width in ((4, 6), (8, 8))]
OPEN_DIMS = ((-1, -1), (-1, 5))
DIMS = [dims_gear(OPEN_DIMS, [rows, length, rows, 5]) for rows in (1, 4) for length in (3, 6)]


@pytest.mark.parametrize(
    ("open_shapes", "gears", "shapes", "expected"),
    [
        (((4, 3), (1,)), STATIC, ((4, 3), (1,)), [Step(0)]),
        (OPEN_BATCH, BATCH, ((4, 3), (1,)), [Step(1)]),
        (OPEN_BATCH, BATCH, ((5, 3), (1,)), [Step(1, 0, 4, 4), Step(0, 4, 5, 1)]),
        (OPEN_IMAGE, IMAGE, ((2, 3, 8, 8), (2, 8, 8)), [Step(1)]),
        (OPEN_DIMS, DIMS, ((4, 6), (4, 5)), [Step(3)]),
        (OPEN_DIMS, DIMS, ((3, 3), (3, 5)), [Step(2, 0, 3, 4)]),
    ],
)
def test_shapes_choose_the_gear(open_shapes, gears, shapes, expected):
    assert plan_steps(open_shapes, gears, shapes) == expected


@pytest.mark.parametrize(
    ("open_shapes", "gears", "shapes"),
    [
        (((4, 3), (1,)), STATIC, ((3, 3), (1,))),
        (OPEN_BATCH, BATCH, ((4, 5), (1,))),
        (OPEN_IMAGE, IMAGE, ((2, 3, 8, 6), (2, 8, 6))),
        (OPEN_DIMS, DIMS, ((4, 4), (4, 5))),
        (OPEN_DIMS, DIMS, ((4, 3), (1, 5))),  # the inputs disagree about the rows
    ],
)
def test_shapes_that_fit_no_gear_are_refused_with_those_that_there_are(open_shapes, gears, shapes):
    with pytest.raises(ValueError, match="fit none of the model's gears: ") as raised:
        plan_steps(open_shapes, gears, shapes)
    assert str(gears[0].shapes[0]) in str(raised.value) and str(shapes[0]) in str(raised.value)
