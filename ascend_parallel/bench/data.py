"""The inputs of the measured calls: random numbers or zeros in the model's shapes, or arrays from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ascend_parallel.checks import check_one_of
from ascend_parallel.errors import UsageError
from ascend_parallel.worker.engines import TensorSpec

Array = np.ndarray[Any, Any]
#: A shape as the user wrote it; None stands for "as many rows as the call has".
Shape = tuple["int | None", ...]
#: Written in a shape where the rows are.
ROWS = "?"
_KINDS = ("random", "zero")
#: The same numbers in each run.
_SEED = 0


def read_shapes(text: str | None) -> dict[str, Shape]:
    """Read ``"x:?,3,224,224;y:8"``: name -> shape, ``?`` for the rows of a call.

    Raises:
        UsageError: the text is not of that form.
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
    """Makes the inputs of calls of any number of rows."""

    def __init__(
        self,
        specs: Sequence[TensorSpec] | None,
        *,
        kind: str | Mapping[str, Any] = "random",
        shapes: Mapping[str, Shape] | None = None,
        batch_axes: Mapping[str, int | None] | None = None,
    ) -> None:
        """Look at the model's inputs.

        Args:
            specs: the model's inputs; None where it does not tell: then ``shapes`` must, and all are float32.
            kind: "random", "zero", or arrays by name, which are taken as they are.
            shapes: shapes that the model leaves open.
            batch_axes: as of :class:`ParallelPredictUtils`.

        Raises:
            UsageError: a shape does not fit the model, or one that is needed is missing.
        """
        if not isinstance(kind, Mapping):
            check_one_of("data", kind, _KINDS, "random, zero, or arrays by name")
        self._kind = kind
        self._axes = dict(batch_axes or {})
        self._shapes: dict[str, Shape] = {}
        self._dtypes: dict[str, str] = {}
        self._specs = specs
        if not isinstance(kind, Mapping):
            self._take_shapes(specs, dict(shapes or {}))
        elif shapes:
            raise UsageError(
                "shapes of inputs were given, but so was a file of inputs, which has its own: leave one out"
            )

    @property
    def rows_at_a_time(self) -> int:
        """How many rows the model takes at a time; 1 where it takes any number."""
        return self._fixed_rows() or 1

    @property
    def given_rows(self) -> int | None:
        """The rows of a call, where file or shapes fix them; None where any number will do."""
        if isinstance(self._kind, Mapping):
            return self._rows_of_file(self._kind)
        fixed = [shape[axis] for name, shape in self._shapes.items() if (axis := self._axis(name, shape)) is not None]
        return None if None in fixed or not fixed else max(size for size in fixed if size is not None)

    def make(self, rows: int) -> dict[str, Array]:
        """Return the inputs of a call of so many rows."""
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
        """Return the largest batch axis of a file's arrays: others, such as a timestep, are given whole."""
        rows = [np.shape(a)[axis] for n, a in arrays.items() if (axis := self._axis(n, np.shape(a))) is not None]
        return max(rows, default=1)

    def _fixed_rows(self) -> int | None:
        sizes = [
            spec.shape[axis] for spec in self._specs or () if (axis := self._axis(spec.name, spec.shape)) is not None
        ]
        fixed = [size for size in sizes if isinstance(size, int)]
        return fixed[0] if fixed and len(fixed) == len(sizes) else None

    def _take_shapes(self, specs: Sequence[TensorSpec] | None, shapes: dict[str, Shape]) -> None:
        if specs is None and not shapes:
            raise UsageError(
                "the model does not tell its inputs: say their shapes, such as --input-shape 'x:?,3,224,224' (float32; "
                "? for the rows of a call), or give a file of them: --data in.npz"
            )
        if specs is None:
            self._shapes = shapes
            self._dtypes = dict.fromkeys(shapes, "float32")
            return
        unknown = [name for name in shapes if name not in [spec.name for spec in specs]]
        if unknown:
            told = ", ".join(spec.name for spec in specs)
            raise UsageError(f"--input-shape names {unknown[0]!r}, but the model's inputs are {told}")
        for spec in specs:
            self._dtypes[spec.name] = spec.dtype
            self._shapes[spec.name] = self._shape_of(spec, shapes.get(spec.name))

    def _shape_of(self, spec: TensorSpec, given: Shape | None) -> Shape:
        """Return an input's shape: as given, or the model's with the rows of the call in it."""
        axis = self._axis(spec.name, spec.shape)
        if given is not None:
            _check_fit(spec, given, axis)
            return given
        missing = [str(n or "N") for i, n in enumerate(spec.shape) if i != axis and not isinstance(n, int)]
        if missing:
            told = ",".join(ROWS if i == axis else str(n or "N") for i, n in enumerate(spec.shape))
            raise UsageError(
                f"the model leaves sizes of its input {spec.name!r} open: say --input-shape '{spec.name}:{told}' with "
                f"numbers in place of {', '.join(dict.fromkeys(missing))}"
            )
        shape: list[Any] = list(spec.shape)
        if axis is not None and (not isinstance(shape[axis], int) or shape[axis] == self._fixed_rows()):
            shape[axis] = 1 if self._is_called_otherwise(shape[axis]) else None
        return tuple(shape)

    def _is_called_otherwise(self, word: int | str | None) -> bool:
        """Whether the model calls an open axis otherwise than that of its first input ("steps" beside "batch").

        Such an input has one row, which goes whole to every device.
        """
        words = [
            spec.shape[axis] for spec in self._specs or () if (axis := self._axis(spec.name, spec.shape)) is not None
        ]
        return isinstance(word, str) and isinstance(words[0], str) and word != words[0]


def _check_fit(spec: TensorSpec, given: Shape, axis: int | None) -> None:
    fits = len(given) == len(spec.shape) and all(
        not isinstance(want, int) or want == have or place == axis
        for place, (want, have) in enumerate(zip(spec.shape, given, strict=True))
    )
    if not fits or any(size is None and place != axis for place, size in enumerate(given)):
        told = ",".join(ROWS if size is None else str(size) for size in given)
        wanted = ",".join(str(size or "N") for size in spec.shape)
        raise UsageError(f"--input-shape {spec.name}:{told} does not fit the model, which takes {spec.name}:{wanted}")


def _random(random: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return numbers that any model should take: from 0 to 1, bytes from 0 to 255; wider whole numbers are 0 or 1.

    Those are indices as a rule, such as of words, and must lie in some table.
    """
    if dtype.kind in "iu":
        most = np.iinfo(dtype).max if dtype.itemsize == 1 else 1
        return random.integers(0, most, shape, dtype, endpoint=True)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    return random.random(shape, np.float32).astype(dtype)
