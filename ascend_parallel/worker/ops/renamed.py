"""A model whose inputs and outputs have other names for the Python around it."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from ..engines.base import Arrays, Engine, TensorSpec


class RenamedEngine(Engine):
    """An engine under other names.

    ``inputs`` and ``outputs`` have the names that the Python uses.
    """

    name = "renamed"

    def __init__(self, engine: Engine, names: Dict[str, str]) -> None:
        """Take an engine, and name for the Python -> name in the model; others keep theirs.

        Raises:
            ValueError: the model has no input or output of a name.
        """
        self._engine = engine
        self._to_model = dict(names)
        self._to_python = {model: python for python, model in names.items()}
        there = [spec.name for specs in (engine.inputs, engine.outputs) for spec in specs or ()]
        is_known = engine.inputs is not None and engine.outputs is not None
        for python, model in names.items():
            if is_known and model not in there:
                raise ValueError(
                    "rename says that %s is the model's %s, which it does not have; it has: %s"
                    % (python, model, ", ".join(there))
                )
        self.inputs = self._rename(engine.inputs)
        self.outputs = self._rename(engine.outputs)

    def _rename(self, specs: Optional[Sequence[TensorSpec]]) -> Optional[List[TensorSpec]]:
        if specs is None:
            return None
        return [spec._replace(name=self._to_python.get(spec.name, spec.name)) for spec in specs]

    def predict(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Run the engine."""
        own: Any = None if names is None else [self._to_model.get(name, name) for name in names]
        outputs = self._engine.predict(own, inputs, destinations)
        return {self._to_python.get(name, name): array for name, array in outputs.items()}
