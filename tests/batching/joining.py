"""A model whose inputs' names say where their rows are: ``r1_0`` has them along axis 1, ``w_0`` has none."""

import numpy as np


def make(device):
    """Return the model."""
    return compute


def compute(inputs):
    """Return outputs whose rows each depend on their own row alone, and on the inputs without rows.

    ``y...`` has the rows where its input has them; ``twice...`` has two for each, along axis 0; ``same`` is for all.
    """
    shared = sum((value.astype(np.float64).sum() for name, value in inputs.items() if name[0] == "w"), 0.0)
    outputs = {"same": np.array([shared])}
    for place, (name, value) in enumerate(sorted(inputs.items())):
        if name[0] == "r":
            outputs[f"y{name}"] = value * 2.0 + shared + place
            first = np.moveaxis(value, int(name[1]), 0)
            outputs[f"twice{name}"] = np.repeat(first.reshape(len(first), -1).sum(axis=1), 2) + shared
    return outputs
