"""The inputs of the measured calls: random numbers or zeros in the model's shapes, or the arrays of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ascend_parallel.checks import check_one_of
from ascend_parallel.errors import UsageError
from ascend_parallel.worker.engines import TensorSpec

Array = np.ndarray[Any, Any]
#: A shape written by the user; None stands for the rows of the call.
Shape = tuple["int | None", ...]
#: Stands for the rows in a shape.
ROWS = "?"
_KINDS = ("random", "zero")
#: Makes the random numbers the same in each run.
_SEED = 0


def read_shapes(text: str | None) -> dict[str, Shape]:
    """Parse ``"x:?,3,224,224;y:8"``: name -> shape; ``?`` stands for the rows of a call.

    Raises:
        UsageError: if the text is malformed.
    """
    shapes = {}
    for part in text.split(";") if text else ():
        name, colon, sizes = part.strip().rpartition(":")
        words = [word.strip() for word in sizes.split(",")] if sizes.strip() else []
        if not colon or not name or not all(word == ROWS or word.isdecimal() for word in words):
            raise UsageError(
                f"--input-shape has {part.strip()!r}; expected NAME:SIZE,SIZE,... (? for the rows of a call), "
                "such as 'x:?,3,224,224;y:8'"
            )
        shapes[name] = tuple(None if word == ROWS else int(word) for word in words)
    return shapes


class InputGenerator:
    """Creates the inputs of calls, for any number of rows."""

    def __init__(
        self,
        specs: Sequence[TensorSpec] | None,
        *,
        kind: str | Mapping[str, Any] = "random",
        shapes: Mapping[str, Shape] | None = None,
        batch_axes: Mapping[str, int | None] | None = None,
    ) -> None:
        """Check the arguments against the model's inputs.

        Args:
            specs: the model's inputs; None if it does not declare them: then ``shapes`` must, and all are float32.
            kind: "random", "zero", or arrays by name, which are used unchanged.
            shapes: shapes of inputs with open axes.
            batch_axes: as for :class:`ParallelPredictUtils`.

        Raises:
            UsageError: if a shape does not fit the model, or is missing.
        """
        if not isinstance(kind, Mapping):
            check_one_of("data", kind, _KINDS, "random, zero, or arrays by name")
        self._kind = kind
        self._axes = dict(batch_axes or {})
        self._shapes: dict[str, Shape] = {}
        self._dtypes: dict[str, str] = {}
        self._specs = specs
        if not isinstance(kind, Mapping):
            self._set_shapes(specs, dict(shapes or {}))
        elif shapes:
            raise UsageError(
                "shapes and a file of inputs were both given, but the file has its own shapes: leave one out"
            )

    @property
    def rows_at_a_time(self) -> int:
        """The batch size of the model; 1 if it accepts any number of rows."""
        return self._fixed_rows() or 1

    @property
    def given_rows(self) -> int | None:
        """The rows of a call, if the file or the shapes determine them; None if any number is possible."""
        if isinstance(self._kind, Mapping):
            return self._rows_of_file(self._kind)
        fixed = [shape[axis] for name, shape in self._shapes.items() if (axis := self._axis(name, shape)) is not None]
        return None if None in fixed or not fixed else max(size for size in fixed if size is not None)

    def make(self, rows: int) -> dict[str, Array]:
        """Return the inputs of a call with this number of rows."""
        if isinstance(self._kind, Mapping):
            return dict(self._kind)
        random = np.random.default_rng(_SEED)
        shapes = {name: tuple(rows if n is None else n for n in shape) for name, shape in self._shapes.items()}
        if self._kind == "zero":
            return {name: np.zeros(shape, self._dtypes[name]) for name, shape in shapes.items()}
        return {name: _random(random, np.dtype(self._dtypes[name]), shape) for name, shape in shapes.items()}

    def _axis(self, name: str, shape: Sequence[Any]) -> int | None:
        return self._axes.get(name, 0) if shape else None

    def _rows_of_file(self, arrays: Mapping[str, Any]) -> int:
        """Return the size of the largest batch axis in a file; other inputs, such as a timestep, are broadcast."""
        rows = [np.shape(a)[axis] for n, a in arrays.items() if (axis := self._axis(n, np.shape(a))) is not None]
        return max(rows, default=1)

    def _fixed_rows(self) -> int | None:
        sizes = [
            spec.shape[axis] for spec in self._specs or () if (axis := self._axis(spec.name, spec.shape)) is not None
        ]
        fixed = [size for size in sizes if isinstance(size, int)]
        return fixed[0] if fixed and len(fixed) == len(sizes) else None

    def _set_shapes(self, specs: Sequence[TensorSpec] | None, shapes: dict[str, Shape]) -> None:
        if specs is None and not shapes:
            raise UsageError(
                "the model does not declare its inputs: give their shapes, such as --input-shape 'x:?,3,224,224' "
                "(float32; ? stands for the rows of a call), or a file with the inputs: --data in.npz"
            )
        if specs is None:
            self._shapes = shapes
            self._dtypes = dict.fromkeys(shapes, "float32")
            return
        unknown = [name for name in shapes if name not in [spec.name for spec in specs]]
        if unknown:
            input_names = ", ".join(spec.name for spec in specs)
            raise UsageError(f"--input-shape names {unknown[0]!r}, but the model's inputs are {input_names}")
        for spec in specs:
            self._dtypes[spec.name] = spec.dtype
            self._shapes[spec.name] = self._shape_of(spec, shapes.get(spec.name))

    def _shape_of(self, spec: TensorSpec, given: Shape | None) -> Shape:
        """Return an input's shape: the given one, or the model's with the rows of the call on the batch axis."""
        axis = self._axis(spec.name, spec.shape)
        if given is not None:
            _check_fit(spec, given, axis)
            return given
        missing = [str(n or "N") for i, n in enumerate(spec.shape) if i != axis and not isinstance(n, int)]
        if missing:
            suggestion = ",".join(ROWS if i == axis else str(n or "N") for i, n in enumerate(spec.shape))
            raise UsageError(
                f"the input {spec.name!r} of the model has open axes: use --input-shape '{spec.name}:{suggestion}' "
                f"with numbers in place of {', '.join(dict.fromkeys(missing))}"
            )
        shape: list[Any] = list(spec.shape)
        if axis is not None and (not isinstance(shape[axis], int) or shape[axis] == self._fixed_rows()):
            shape[axis] = 1 if self._has_other_name(shape[axis]) else None
        return tuple(shape)

    def _has_other_name(self, name: int | str | None) -> bool:
        """Whether an open axis has another name than that of the model's first input, such as "steps" and "batch".

        Such an input gets one row and is broadcast to all devices.
        """
        names = [
            spec.shape[axis] for spec in self._specs or () if (axis := self._axis(spec.name, spec.shape)) is not None
        ]
        return isinstance(name, str) and isinstance(names[0], str) and name != names[0]


def _check_fit(spec: TensorSpec, given: Shape, axis: int | None) -> None:
    fits = len(given) == len(spec.shape) and all(
        not isinstance(spec_size, int) or spec_size == given_size or index == axis
        for index, (spec_size, given_size) in enumerate(zip(spec.shape, given, strict=True))
    )
    if not fits or any(size is None and index != axis for index, size in enumerate(given)):
        given_text = ",".join(ROWS if size is None else str(size) for size in given)
        expected_text = ",".join(str(size or "N") for size in spec.shape)
        raise UsageError(
            f"--input-shape {spec.name}:{given_text} does not fit the model, which takes {spec.name}:{expected_text}"
        )


def _random(random: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return numbers that any model should accept: 0 to 1, for bytes 0 to 255, for wider integers 0 or 1.

    Wider integers are usually indices, such as those of words, and must be inside a table.
    """
    if dtype.kind in "iu":
        maximum = np.iinfo(dtype).max if dtype.itemsize == 1 else 1
        return random.integers(0, maximum, shape, dtype, endpoint=True)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    return random.random(shape, np.float32).astype(dtype)
