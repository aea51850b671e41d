"""What the master knows of a model: its specs, and how calls of each kind are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ascend_parallel.errors import ShapeError
from ascend_parallel.worker.engines.base import TensorSpec

from .batch import Array, Batch, BatchAxes, cut, find_batch, fit_dtype
from .plan import Plan

#: Plans kept; a caller whose every call has another shape does not fill the memory with them.
MAX_PLANS = 256


class Model:
    """One model of a runner.

    Attributes:
        name: its name in the runner; "" where there is only one.
        inputs: its inputs; None where the model does not tell (a callable).
        outputs: likewise.
        batch_axes: what the user declared of inputs and outputs.
        assignment: provider -> operator -> number of nodes that run there; None where the engine does not tell.
        fixed_outputs: outputs whose first axis the model fixes, unless ``batch_axes`` says what it is. Where the model
            takes any number of rows, it does not hold them, even where it has as many.
        must_have: names that an input or output must have, as ``batch_axes`` names them.
    """

    def __init__(
        self,
        name: str,
        description: Mapping[str, Any],
        *,
        batch_axes: BatchAxes,
        chunk_size: int | None,
        parts: int,
    ) -> None:
        """Take the description of the model.

        Args:
            name: its name.
            description: see ``worker/building.py``.
            batch_axes: what the user declared of its inputs and outputs.
            chunk_size: rows a task, for a model that takes any number; None: one task a part.
            parts: workers (and their instances) that can share a call.
        """
        self.name = name
        self.inputs = _to_specs(description["inputs"])
        self.outputs = _to_specs(description["outputs"])
        self.assignment: dict[str, dict[str, int]] | None = description.get("assignment")
        self._names = tuple(spec.name for spec in self.inputs or ())
        self._warm_up = description["seen"]
        self.batch_axes = batch_axes
        self.fixed_outputs = _find_fixed(self.outputs or (), batch_axes)
        self._chunk_size = chunk_size
        self._parts = parts
        self.must_have: list[str] = []
        self._plans: dict[Any, Plan] = {}
        self._seen: dict[Any, dict[str, Any]] = {}

    def plan(self, inputs: Any) -> tuple[Plan, list[Array]]:
        """Check a call's inputs; return how it is to be done, and the inputs in the model's order.

        Args:
            inputs: a dict of name -> array, or a list of arrays in the model's order.

        Raises:
            ShapeError: an input's name, dtype or shape does not fit, or the batch axis is ambiguous.
        """
        names, arrays = self.in_order(inputs)
        as_list = isinstance(inputs, (list, tuple))
        key = (as_list, names, tuple([(array.dtype, array.shape) for array in arrays]))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._make_plan(names, arrays, as_list)
            if len(self._plans) >= MAX_PLANS:
                self.forget_plans()
            self._plans[key] = plan
        elif plan.must_fit:
            self._fit_dtypes(arrays)
        return plan, arrays

    def forget_plans(self) -> None:
        """Let go of the shared memory that plans remember."""
        self._plans.clear()
        self._seen.clear()

    def known_names(self) -> list[str] | None:
        """Return the names of all inputs and outputs; None where neither the model nor the warm-up shows both."""
        outputs = [spec.name for spec in self.outputs or ()] or [name for name, *_ in (self._warm_up or ((), ()))[1]]
        if self.inputs is None or not outputs:
            return None
        return [*(spec.name for spec in self.inputs), *outputs]

    def _make_plan(self, names: tuple[str, ...], arrays: list[Array], as_list: bool) -> Plan:
        batch = find_batch(self.inputs, names, arrays, self.batch_axes)
        if self._chunk_size and batch.fixed_rows and self._chunk_size != batch.fixed_rows:
            raise ShapeError(f"chunk_size is {self._chunk_size}, but the model takes {batch.fixed_rows} rows at a time")
        is_fixed = batch.fixed_rows is not None  # the hosts of a cluster, not its driver, cut to the model's size
        batch, chunks = self._cut(batch)
        plan = Plan(
            self.name,
            names,
            arrays,
            self._fit_dtypes(arrays),
            batch,
            chunks,
            self.batch_axes,
            as_list=as_list,
            tell_names=not as_list,
        )
        plan.must_have = self.must_have
        if not is_fixed:
            plan.fixed_outputs = self.fixed_outputs
        plan.seen = self._seen.setdefault(plan.signature, {})
        if plan.seen:
            plan.learn(**plan.seen)  # from calls with other numbers of rows
        else:
            self._learn_from_warm_up(plan)
        return plan

    def _cut(self, batch: Batch) -> tuple[Batch, list[tuple[int, int]]]:
        """Return the batch as its plan is to know it, and the rows of each chunk."""
        return batch, cut(batch.rows, fixed_rows=batch.fixed_rows, chunk_size=self._chunk_size, parts=self._parts)

    def _learn_from_warm_up(self, plan: Plan) -> None:
        """Take the shapes that the warm-up showed, if it ran on chunks like this plan's."""
        if self._warm_up is None:
            return
        inputs, outputs = self._warm_up
        rows = plan.batch.fixed_rows or 1
        if [region.whole_shape(rows) for region in plan.inputs] == inputs:
            plan.learn(rows, {name: (dtype, shape) for name, dtype, shape in outputs})

    def _fit_dtypes(self, arrays: list[Array]) -> list[np.dtype[Any]]:
        """Return the dtypes in which inputs go to the worker: the model's, or their own in native byte order."""
        if self.inputs is None:
            return [array.dtype.newbyteorder("=") for array in arrays]
        return [fit_dtype(spec, array) for spec, array in zip(self.inputs, arrays, strict=True)]

    def in_order(self, inputs: Any) -> tuple[tuple[str, ...], list[Array]]:
        """Return names and arrays in the model's order; raises ShapeError."""
        if isinstance(inputs, (dict, Mapping)):  # a dict first: asking an abstract class takes ten times as long
            names = tuple(inputs) if self.inputs is None else self._names
            if len(names) != len(inputs) or not inputs.keys() >= set(names):
                raise _wrong_names(inputs, names)
            values = [inputs[name] for name in names]
        elif isinstance(inputs, (list, tuple)):
            names = self._names_of_list(len(inputs))
            values = list(inputs)
        else:
            raise ShapeError(
                f"inputs are a {type(inputs).__name__}; expected a dict of name -> array, or a list of arrays in "
                "the model's order"
            )
        if not values:
            raise ShapeError("there are no inputs; a call needs at least one")
        return names, list(map(to_array, names, values))

    def _names_of_list(self, count: int) -> tuple[str, ...]:
        if self.inputs is None:
            return tuple([f"input{i}" for i in range(count)])
        if count != len(self._names):
            raise ShapeError(f"{count} inputs were given, the model takes {len(self._names)}: {', '.join(self._names)}")
        return self._names


def _find_fixed(outputs: Sequence[TensorSpec], batch_axes: BatchAxes) -> list[str]:
    return [s.name for s in outputs if s.shape and isinstance(s.shape[0], int) and s.name not in batch_axes]


def _wrong_names(inputs: Mapping[Any, Any], names: Sequence[str]) -> ShapeError:
    missing = [repr(name) for name in names if name not in inputs]
    unknown = [repr(name) for name in inputs if name not in names]
    parts = [f"{' and '.join(missing)} missing"] if missing else []
    parts += [f"{' and '.join(unknown)} unknown"] if unknown else []
    return ShapeError(f"inputs do not fit the model: {'; '.join(parts)}; it takes {', '.join(names)}")


def _to_specs(description: Sequence[Any] | None) -> list[TensorSpec] | None:
    if description is None:
        return None
    return [TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in description]


def to_array(name: str, value: Any) -> Array:
    """Return an input as an array of numbers or booleans; raises ShapeError where it is none."""
    if not isinstance(name, str):
        raise ShapeError(f"the input name {name!r} is a {type(name).__name__}; expected a string")
    try:
        array = np.asarray(value)
    except Exception as error:  # a ragged list, or what another library's tensor raises
        raise ShapeError(f"input {name!r} cannot be made a numpy array: {error}") from None
    if array.dtype.kind not in "biufc":
        raise ShapeError(f"input {name!r} holds {array.dtype} elements; expected numbers or booleans")
    return array
