"""The gears of an OM model: the input shapes that it was converted for, and how rows are computed with them.

Pure arithmetic on shapes. A static model has one gear. ATC's ``--dynamic_batch_size``, ``--dynamic_image_size`` and
``--dynamic_dims`` make several; CANN's documents call them gears or profiles.
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Sequence, Tuple

Shape = Tuple[int, ...]
Shapes = Tuple[Shape, ...]
#: The size of an axis that the gears set.
OPEN = -1
_SHOWN_GEARS = 8


class Gear(NamedTuple):
    """The shapes of all inputs that a model can be set to.

    Attributes:
        kind: what sets it: "static" (nothing), "batch", "image_size" or "dims".
        values: what it is set to: the batch size; height and width; or the sizes of all axes of all inputs.
        shapes: one for each input.
    """

    kind: str
    values: Shape
    shapes: Shapes


class Step(NamedTuple):
    """One execution of the model.

    Attributes:
        gear: the gear's number.
        start: the first row of the inputs that are divided.
        stop: the row after the last; 0 where all inputs fit the gear as they are.
        rows: the gear's rows; the rest is padding.
    """

    gear: int
    start: int = 0
    stop: int = 0
    rows: int = 0


def static_gear(shapes: Shapes) -> Gear:
    """Return the only gear of a model without open axes."""
    return Gear("static", (), shapes)


def batch_gear(shapes: Shapes, rows: int) -> Gear:
    """Return the gear of a batch size."""
    return Gear("batch", (rows,), tuple(tuple(rows if dim == OPEN else dim for dim in shape) for shape in shapes))


def image_size_gear(shapes: Shapes, height: int, width: int) -> Gear:
    """Return the gear of an image size: the open axes of an input are its height and its width, in this order."""
    filled = []
    for shape in shapes:
        sizes = iter((height, width))
        filled.append(tuple(next(sizes) if dim == OPEN else dim for dim in shape))
    return Gear("image_size", (height, width), tuple(filled))


def dims_gear(shapes: Shapes, sizes: Sequence[int]) -> Gear:
    """Return the gear of sizes, which are those of all axes of the first input, then of the second, and so on."""
    rest = iter(sizes)
    return Gear("dims", tuple(sizes), tuple(tuple(next(rest) for _ in shape) for shape in shapes))


def plan_steps(open_shapes: Shapes, gears: Sequence[Gear], shapes: Shapes) -> List[Step]:
    """Return the executions that compute inputs of these shapes.

    Inputs that fit a gear take one execution. Else their rows, along the open first axes, are divided among gears that
    fit all other axes (see :func:`cover`).

    Raises:
        ValueError: there is no such gear; the message names those that there are.
    """
    for number, gear in enumerate(gears):
        if gear.shapes == shapes:
            return [Step(number)]
    divided = divided_inputs(open_shapes)
    rows = {shapes[i][0] for i in divided if shapes[i]}
    by_rows = {}
    for number, gear in enumerate(gears):
        sizes = {gear.shapes[i][0] for i in divided}
        if len(sizes) == 1 and _drop_rows(gear.shapes, divided) == _drop_rows(shapes, divided):
            by_rows[sizes.pop()] = number
    if len(rows) != 1 or not by_rows:
        raise ValueError("inputs of %s fit none of the model's gears: %s" % (_show([shapes]), _show_gears(gears)))
    return [Step(by_rows[size], start, stop, size) for start, stop, size in cover(rows.pop(), sorted(by_rows))]


def divided_inputs(open_shapes: Shapes) -> List[int]:
    """Return the numbers of the inputs whose first axis is open."""
    return [i for i, shape in enumerate(open_shapes) if shape[:1] == (OPEN,)]


def cover(rows: int, sizes: Sequence[int]) -> Iterator[Tuple[int, int, int]]:
    """Yield (first row, row after the last, gear's rows) of executions that compute so many rows.

    The largest gear is used as often as it is full. A rest takes the next larger gear if it fills at least half of it,
    or if there is no smaller one; else the largest gear that it fills, and so on with what is left.

    Args:
        rows: at least 1.
        sizes: the gears' rows, ascending.
    """
    start = 0
    while start < rows:
        rest = rows - start
        full = [size for size in sizes if size <= rest]
        larger = [size for size in sizes if size >= rest]
        is_worth_padding = bool(larger) and (2 * rest >= larger[0] or not full)
        size = larger[0] if is_worth_padding else full[-1]
        yield start, start + min(size, rest), size
        start += size


def _drop_rows(shapes: Shapes, divided: Sequence[int]) -> Shapes:
    return tuple(shape[1:] if i in divided else shape for i, shape in enumerate(shapes))


def _show(gears: Sequence[Shapes]) -> str:
    return "; ".join(" and ".join(str(shape) for shape in shapes) for shapes in gears)


def _show_gears(gears: Sequence[Gear]) -> str:
    text = _show([gear.shapes for gear in gears[:_SHOWN_GEARS]])
    return text + ("; ..." if len(gears) > _SHOWN_GEARS else "")
