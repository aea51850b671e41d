"""The shapes that a model is converted for: batch axes, rows per device, and sizes of open axes.

Pure functions of specs and numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ascend_parallel.errors import UsageError
from ascend_parallel.worker.engines import TensorSpec

#: Input name -> batch axis; None: the input is not sliced, every device gets all of it.
Axes = Mapping[str, "int | None"]
Shape = tuple[int, ...]
#: Part of the usual names of the batch axis, such as "batch_size"; it is used if a model has several axis names.
BATCH_WORD = "batch"
#: In --input-shape: the size that the model has; for the batch axis, the size that --batch-per-device gives.
UNSPECIFIED = -1


def parse_input_shape(text: str) -> dict[str, Shape]:
    """Parse ``name:2,4,64,64;name:1``, the form of converter_lite; a name may contain colons.

    Raises:
        UsageError: if the text is malformed.
    """
    shapes: dict[str, Shape] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, colon, sizes = part.rpartition(":")
        try:
            shape = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            shape = (0,)
        if not colon or not name or any(size < 1 and size != UNSPECIFIED for size in shape):
            raise UsageError(
                f"--input-shape has the part {part!r}; expected NAME:SIZE,SIZE,... with sizes of 1 or more (or "
                f"{UNSPECIFIED}: the size of the model or of --batch-per-device), separated by semicolons"
            )
        if name in shapes:
            raise UsageError(f"--input-shape names {name!r} twice")
        shapes[name] = shape
    return shapes


def check_names(option: str, names: Iterable[str], specs: Sequence[TensorSpec]) -> None:
    """Refuse names of inputs that the model does not have, which converters silently ignore; raises UsageError."""
    known = [spec.name for spec in specs]
    for name in names:
        if name not in known:
            raise UsageError(f"{option} names {name!r}; the model's inputs are {', '.join(known)}")


# ---- batch axes


def find_batch_axes(specs: Sequence[TensorSpec], declared: Axes) -> dict[str, int | None]:
    """Find the batch axis of each input.

    Without a declaration it is axis 0, if the model leaves axis 0 open. If the model fixes all sizes, it is axis 0 of
    the inputs that have the same size there, but not of inputs with another size or with a single element (a time
    step). Ambiguous shapes are an error that names ``--batch-axis``.

    Args:
        specs: the model's inputs.
        declared: input name -> axis or None, as declared by the user.

    Returns:
        Input name -> axis, or None for an input that is not sliced.

    Raises:
        UsageError: if no input has a batch axis, the axes are ambiguous, or a declaration does not fit.
    """
    check_names("--batch-axis", declared, specs)
    axes = {name: _in_range(name, axis, specs) for name, axis in declared.items()}
    rest = [spec for spec in specs if spec.name not in declared and spec.shape]
    dims = {spec.shape[axis] for spec in specs if (axis := axes.get(spec.name)) is not None}
    if dims:  # the other inputs with the declared ones' axis names or sizes
        sliced = [spec for spec in rest if spec.shape[0] in dims - {1, None}]
    else:
        sliced = _find_open(rest) or _find_fixed(rest)
    axes.update((spec.name, 0) for spec in sliced)
    if all(axis is None for axis in axes.values()):
        raise UsageError(
            f"no input of the model has a batch axis that can be divided: {format_specs(specs)}; declare one with "
            "--batch-axis NAME=AXIS"
        )
    return {spec.name: axes.get(spec.name) for spec in specs}


def _in_range(name: str, axis: int | None, specs: Sequence[TensorSpec]) -> int | None:
    shape = next(spec.shape for spec in specs if spec.name == name)
    if axis is None:
        return None
    if not -len(shape) <= axis < len(shape):
        raise UsageError(f"--batch-axis gives axis {axis} for {name!r}, which has the shape {format_shape(shape)}")
    return axis % len(shape)


def _find_open(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return the inputs whose axis 0 is open and, if there are several axis names, has the batch's name."""
    open_specs = [spec for spec in specs if not isinstance(spec.shape[0], int)]
    words = {spec.shape[0] for spec in open_specs}
    if len(words) > 1:
        words = {word for word in words if BATCH_WORD in str(word).lower()}
        if len(words) != 1:
            raise _ambiguous(open_specs)
    return [spec for spec in open_specs if spec.shape[0] in words]


def _find_fixed(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return the inputs whose axis 0 has the size of the batch; the inputs with several axes determine that size."""
    candidates = [spec for spec in specs if len(spec.shape) > 1] or list(specs)
    sizes = {spec.shape[0] for spec in candidates}
    if len(sizes) > 1:
        sizes -= {1}
    if len(sizes) > 1:
        raise _ambiguous(candidates)
    return [spec for spec in specs if spec.shape[0] in sizes and (spec.shape[0] != 1 or spec in candidates)]


def _ambiguous(specs: Sequence[TensorSpec]) -> UsageError:
    return UsageError(
        f"the batch axis is ambiguous: {format_specs(specs)}; declare it with --batch-axis "
        f"{specs[0].name}=0, and for an input that is not sliced --batch-axis {specs[-1].name}=none"
    )


# ---- rows per device


def find_total_rows(specs: Sequence[TensorSpec], axes: Axes, requested: Mapping[str, Shape]) -> int | None:
    """Return the rows of the whole batch, from --input-shape or else from the model; None if neither gives them.

    Raises:
        UsageError: if the inputs disagree.
    """
    requested_rows, fixed = {}, {}
    for spec in specs:
        axis = axes[spec.name]
        if axis is None:
            continue
        if spec.name in requested and requested[spec.name][axis] != UNSPECIFIED:
            requested_rows[spec.name] = requested[spec.name][axis]
        elif isinstance(size := spec.shape[axis], int):
            fixed[spec.name] = size
    rows = requested_rows or fixed
    if len(set(rows.values())) > 1:
        words = ", ".join(f"{name!r} has {count}" for name, count in rows.items())
        outlier = min(rows, key=lambda name: list(rows.values()).count(rows[name]))
        raise UsageError(
            f"the inputs disagree about the rows of the batch: {words}; if one of them is not part of the batch, use "
            f"--batch-axis {outlier}=none"
        )
    return next(iter(rows.values()), None)


def divide_rows(total: int | None, requested: Sequence[int], devices: int, *, is_requested: bool) -> list[int]:
    """Return the batch size of each model to convert.

    Args:
        total: the rows of the whole batch; None if they are unknown.
        requested: the sizes of --batch-per-device.
        devices: the number of devices.
        is_requested: whether ``total`` comes from --input-shape and not from the model.

    Raises:
        UsageError: if the rows cannot be divided, or their number is unknown.
    """
    for rows in requested:
        if rows < 1 or requested.count(rows) > 1:
            raise UsageError(f"--batch-per-device has {rows}; expected numbers of 1 or more, each once, such as 1,2,4")
        if is_requested and total is not None and total % rows:
            raise UsageError(
                f"--input-shape has a batch of {total}, which is not divisible by the {rows} rows of "
                f"--batch-per-device; write {UNSPECIFIED} for the batch in --input-shape to leave it open"
            )
    if requested:
        return list(requested)
    if total is None:
        raise UsageError(
            "the batch of the model is open: set the rows per device with --batch-per-device, or the shapes of the "
            "whole batch with --input-shape"
        )
    if total % devices:
        raise UsageError(
            f"the batch of {total} is not divisible by {devices} devices; set the rows per device with "
            f"--batch-per-device, or use a batch of {total + devices - total % devices}"
        )
    return [total // devices]


def fill_shapes(specs: Sequence[TensorSpec], axes: Axes, requested: Mapping[str, Shape], rows: int) -> dict[str, Shape]:
    """Return each input's shape for this number of rows, without open axes.

    Raises:
        UsageError: if --input-shape does not fit the model, or leaves an axis open.
    """
    return {spec.name: _fill(spec, axes[spec.name], requested.get(spec.name), rows) for spec in specs}


def check_input_shape(specs: Sequence[TensorSpec], axes: Axes, requested: Mapping[str, Shape]) -> None:
    """Check that --input-shape fits the model; raises UsageError."""
    check_names("--input-shape", requested, specs)
    for spec in specs:
        if spec.name not in requested:
            continue
        shape = requested[spec.name]
        if len(shape) != len(spec.shape):
            raise UsageError(
                f"--input-shape gives {spec.name!r} {len(shape)} sizes, but its shape in the model is "
                f"{format_shape(spec.shape)}"
            )
        for axis, (requested_size, fixed_size) in enumerate(zip(shape, spec.shape, strict=True)):
            if (
                isinstance(fixed_size, int)
                and requested_size not in (fixed_size, UNSPECIFIED)
                and axis != axes[spec.name]
            ):
                raise UsageError(
                    f"--input-shape gives {spec.name!r} the size {requested_size} on axis {axis}, which the model "
                    f"fixes to {fixed_size}"
                )


def _fill(spec: TensorSpec, batch_axis: int | None, requested: Shape | None, rows: int) -> Shape:
    sizes_or_names = [
        size if isinstance(size, int) or requested is None or requested[axis] == UNSPECIFIED else requested[axis]
        for axis, size in enumerate(spec.shape)
    ]
    if batch_axis is not None:
        sizes_or_names[batch_axis] = rows
    shape = tuple(size for size in sizes_or_names if isinstance(size, int))
    if len(shape) != len(sizes_or_names):
        sizes = ",".join(str(size) if isinstance(size, int) else "?" for size in sizes_or_names)
        raise UsageError(
            f"the input {spec.name!r} of the model has open axes, {format_shape(spec.shape)}; set their sizes: "
            f'--input-shape "{spec.name}:{sizes}", with numbers for the question marks'
        )
    return shape


# ---- as text


def format_shape(shape: Sequence[int | str | None]) -> str:
    """Return a shape as text: ``[batch, 4, ?]``."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def format_specs(specs: Sequence[TensorSpec]) -> str:
    """Return inputs as text: ``x[batch, 4], t[]``."""
    return ", ".join(f"{spec.name}{format_shape(spec.shape)}" for spec in specs) or "it has no inputs"


def format_input_shape(shapes: Mapping[str, Shape]) -> str:
    """Return shapes in the form of converter_lite, without 0-d inputs, which that form does not support."""
    return ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items() if shape)
