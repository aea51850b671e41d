"""The shapes that a model is converted for: which axis holds the rows, how many a device gets, what is open otherwise.

Pure functions over specs and numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ascend_parallel.errors import UsageError
from ascend_parallel.worker.engines import TensorSpec

#: Input name -> the axis that holds its rows; None: it has none, and every device gets it whole.
Axes = Mapping[str, "int | None"]
Shape = tuple[int, ...]
#: What an exporter's word for the rows' axis has in it, where a model has several words: "batch_size" beside "steps".
BATCH_WORD = "batch"
#: In --input-shape: the size that the model has, or, of the rows, what --batch-per-device says.
AS_TOLD = -1


def read_input_shape(text: str) -> dict[str, Shape]:
    """Read ``name:2,4,64,64;name:1``, converter_lite's own form; a name may hold colons.

    Raises:
        UsageError: the text is not of that form.
    """
    shapes: dict[str, Shape] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, colon, sizes = part.rpartition(":")
        try:
            shape = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            shape = (0,)
        if not colon or not name or any(size < 1 and size != AS_TOLD for size in shape):
            raise UsageError(
                f"--input-shape has the part {part!r}; expected NAME:SIZE,SIZE,... with sizes of 1 or more (or "
                f"{AS_TOLD}: as the model or --batch-per-device says), parts separated by semicolons"
            )
        if name in shapes:
            raise UsageError(f"--input-shape names {name!r} twice")
        shapes[name] = shape
    return shapes


def check_names(option: str, names: Iterable[str], specs: Sequence[TensorSpec]) -> None:
    """Refuse the name of an input that the model does not have, which converters ignore in silence."""
    known = [spec.name for spec in specs]
    for name in names:
        if name not in known:
            raise UsageError(f"{option} names {name!r}; the model's inputs are {', '.join(known)}")


# ---- which axis holds the rows


def find_batch_axes(specs: Sequence[TensorSpec], declared: Axes) -> dict[str, int | None]:
    """Find the axis of each input that holds the rows.

    Without a declaration: axis 0 where the model leaves it open; where it fixes all, axis 0 of the inputs that have the
    same size there, inputs of one size (a time step) and of other sizes left alone. What could be read in two ways is
    an error that names ``--batch-axis``.

    Args:
        specs: the model's inputs.
        declared: input name -> axis or None, as the user says.

    Returns:
        Input name -> axis, or None for an input without rows.

    Raises:
        UsageError: no input has rows, or it is ambiguous which, or a declaration does not fit.
    """
    check_names("--batch-axis", declared, specs)
    axes = {name: _in_range(name, axis, specs) for name, axis in declared.items()}
    rest = [spec for spec in specs if spec.name not in declared and spec.shape]
    dims = {spec.shape[axis] for spec in specs if (axis := axes.get(spec.name)) is not None}
    if dims:  # more of the same
        found = [spec for spec in rest if spec.shape[0] in dims - {1, None}]
    else:
        found = _find_open(rest) or _find_fixed(rest)
    axes.update((spec.name, 0) for spec in found)
    if all(axis is None for axis in axes.values()):
        raise UsageError(
            f"no input of the model has a batch axis that could be shared out: {show_specs(specs)}; say which has "
            "one with --batch-axis NAME=AXIS"
        )
    return {spec.name: axes.get(spec.name) for spec in specs}


def _in_range(name: str, axis: int | None, specs: Sequence[TensorSpec]) -> int | None:
    shape = next(spec.shape for spec in specs if spec.name == name)
    if axis is None:
        return None
    if not -len(shape) <= axis < len(shape):
        raise UsageError(f"--batch-axis says axis {axis} of {name!r}, which has the shape {show_shape(shape)}")
    return axis % len(shape)


def _find_open(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return the inputs whose axis 0 is open, by one word if they have several."""
    found = [spec for spec in specs if not isinstance(spec.shape[0], int)]
    words = {spec.shape[0] for spec in found}
    if len(words) > 1:
        words = {word for word in words if BATCH_WORD in str(word).lower()}
        if len(words) != 1:
            raise _ambiguous(found)
    return [spec for spec in found if spec.shape[0] in words]


def _find_fixed(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return the inputs whose axis 0 has the size of the batch, which those of several axes tell."""
    telling = [spec for spec in specs if len(spec.shape) > 1] or list(specs)
    sizes = {spec.shape[0] for spec in telling}
    if len(sizes) > 1:
        sizes -= {1}
    if len(sizes) > 1:
        raise _ambiguous(telling)
    return [spec for spec in specs if spec.shape[0] in sizes and (spec.shape[0] != 1 or spec in telling)]


def _ambiguous(specs: Sequence[TensorSpec]) -> UsageError:
    return UsageError(
        f"no batch axis could be found, as several could be meant: {show_specs(specs)}; say which with --batch-axis "
        f"{specs[0].name}=0, and of an input without one --batch-axis {specs[-1].name}=none"
    )


# ---- how many rows a device gets


def find_whole_rows(specs: Sequence[TensorSpec], axes: Axes, asked: Mapping[str, Shape]) -> int | None:
    """Return the rows of the whole call, by --input-shape or else by the model; None where neither says.

    Raises:
        UsageError: the inputs disagree.
    """
    told, fixed = {}, {}
    for spec in specs:
        axis = axes[spec.name]
        if axis is None:
            continue
        if spec.name in asked and asked[spec.name][axis] != AS_TOLD:
            told[spec.name] = asked[spec.name][axis]
        elif isinstance(size := spec.shape[axis], int):
            fixed[spec.name] = size
    rows = told or fixed
    if len(set(rows.values())) > 1:
        words = ", ".join(f"{name!r} has {count}" for name, count in rows.items())
        odd = min(rows, key=lambda name: list(rows.values()).count(rows[name]))
        raise UsageError(
            f"the inputs disagree about the rows of the batch: {words}; if one of them is not part of the batch, say "
            f"--batch-axis {odd}=none"
        )
    return next(iter(rows.values()), None)


def share_rows(whole: int | None, asked: Sequence[int], devices: int, *, is_told: bool) -> list[int]:
    """Return the rows that a device gets at a time, for each model to be made.

    Args:
        whole: the rows of the whole call; None where nothing says.
        asked: what --batch-per-device says.
        devices: how many there are.
        is_told: whether ``whole`` was said with --input-shape rather than by the model.

    Raises:
        UsageError: it does not divide, or nothing says how many there are.
    """
    for rows in asked:
        if rows < 1 or asked.count(rows) > 1:
            raise UsageError(f"--batch-per-device has {rows}; expected numbers of 1 or more, each once, such as 1,2,4")
        if is_told and whole is not None and whole % rows:
            raise UsageError(
                f"--input-shape tells a batch of {whole}, which does not divide into the {rows} rows of "
                f"--batch-per-device; write {AS_TOLD} for the batch in --input-shape to leave it open"
            )
    if asked:
        return list(asked)
    if whole is None:
        raise UsageError(
            "the model leaves its batch open: say with --batch-per-device how many rows a device gets, or the whole "
            "batch's shape with --input-shape"
        )
    if whole % devices:
        raise UsageError(
            f"the batch of {whole} does not divide by {devices} devices; say with --batch-per-device how many rows a "
            f"device gets at a time, or take a batch of {whole + devices - whole % devices}"
        )
    return [whole // devices]


def fill_shapes(specs: Sequence[TensorSpec], axes: Axes, asked: Mapping[str, Shape], rows: int) -> dict[str, Shape]:
    """Return each input's shape for so many rows, with nothing open.

    Raises:
        UsageError: --input-shape does not fit the model, or leaves something open.
    """
    return {spec.name: _fill(spec, axes[spec.name], asked.get(spec.name), rows) for spec in specs}


def check_asked(specs: Sequence[TensorSpec], axes: Axes, asked: Mapping[str, Shape]) -> None:
    """Check that --input-shape fits the model; raises UsageError."""
    check_names("--input-shape", asked, specs)
    for spec in specs:
        if spec.name not in asked:
            continue
        shape = asked[spec.name]
        if len(shape) != len(spec.shape):
            raise UsageError(
                f"--input-shape gives {spec.name!r} {len(shape)} sizes; the model has it of the shape "
                f"{show_shape(spec.shape)}"
            )
        for axis, (want, have) in enumerate(zip(shape, spec.shape, strict=True)):
            if isinstance(have, int) and want not in (have, AS_TOLD) and axis != axes[spec.name]:
                raise UsageError(
                    f"--input-shape gives {spec.name!r} the size {want} on axis {axis}, which the model fixes to {have}"
                )


def _fill(spec: TensorSpec, batch_axis: int | None, asked: Shape | None, rows: int) -> Shape:
    known = [
        size if isinstance(size, int) or asked is None or asked[axis] == AS_TOLD else asked[axis]
        for axis, size in enumerate(spec.shape)
    ]
    if batch_axis is not None:
        known[batch_axis] = rows
    filled = tuple(size for size in known if isinstance(size, int))
    if len(filled) != len(known):
        sizes = ",".join(str(size) if isinstance(size, int) else "?" for size in known)
        raise UsageError(
            f"the model leaves sizes of the input {spec.name!r} open, {show_shape(spec.shape)}; give them: "
            f'--input-shape "{spec.name}:{sizes}", with numbers for the question marks'
        )
    return filled


# ---- as text


def show_shape(shape: Sequence[int | str | None]) -> str:
    """Return a shape as text: ``[batch, 4, ?]``."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def show_specs(specs: Sequence[TensorSpec]) -> str:
    """Return inputs as text: ``x[batch, 4], t[]``."""
    return ", ".join(f"{spec.name}{show_shape(spec.shape)}" for spec in specs) or "it has no inputs"


def write_input_shape(shapes: Mapping[str, Shape]) -> str:
    """Return shapes in converter_lite's form, without inputs of no axes, which it cannot name."""
    return ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items() if shape)
